"""The state of the whole store, read for its page: the live generation, quality over time, runs, cost, quarantine.

Every query reads a table of few rows or indexes alone: a look at every document would take most of a second.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from psycopg import sql

from heal_tasks.core.metrics import NDCG, TOPIC_AGREEMENT
from heal_tasks.report.stored_tree import StoredTree, read_tree
from heal_tasks.store.db import Connection, find, select
from heal_tasks.store.generations.generations import Generation, GenerationRepository, State
from heal_tasks.store.questions.rank_changes import NamedChange, last_rank_changes
from heal_tasks.store.runs.runs import Run, RunRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

RUNS, MEASURED_RUNS, MONTHS, GENERATIONS, REJECTED = 30, 60, 12, 12, 10
"""The most runs, runs in the curves of quality, months of cost, generations, and rejected inputs on the page."""

_UNITS = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")]


class Measured(NamedTuple):
    """The quality that a run left: of the generation that was live at its end, by one set and query path."""

    run_id: str
    started_at: datetime
    promoted: bool  # the run's gate promoted a generation
    question_set: str
    metric: str
    value: float
    low: float | None
    high: float | None
    questions: int


class Served(NamedTuple):
    """Numbers of documents (live) and duplicates, of chunks that are served, wait for a run, or are served stale."""

    documents: int
    duplicates: int
    chunks: int
    waiting: int
    stale: int


class Cost(NamedTuple):
    """Calls to language models in a month (UTC) for a purpose, added up."""

    month: datetime
    purpose: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


class Rejection(NamedTuple):
    """Input in quarantine that is not mended."""

    source: str
    path: str
    line: int
    reason: str
    records: int
    created_at: datetime


class Quarantine(NamedTuple):
    """Numbers of rejections and of records lost with them, and of rejections that were mended."""

    rejections: int
    records: int
    mended: int


class GenerationRow(NamedTuple):
    """A generation as in ``heal.generation_status``."""

    generation_id: int
    state: State
    model_uri: str
    nudge_variant: str
    nudge_theta: float
    recall: float | None
    created_at: datetime
    activated_at: datetime | None
    note: str
    index_kind: str
    ef_search: int
    rows: int | None
    bytes: int | None
    index_bytes: int | None
    lexicon_stems: int | None
    bridge_share: float | None

    @property
    def can_be_activated(self) -> bool:
        """True if ``heal_activate`` can switch to it."""
        return self.state in ("ready", "previous")


@dataclass(frozen=True)
class StoreState:
    """The whole store at this moment; no text but titles and questions of the rank changes."""

    now: datetime
    served: Served
    active: Generation | None
    space: Space | None  # of the live generation
    made_by: Run | None  # the run that made the live generation
    tree: StoredTree | None  # of the live generation
    runs: list[Run]
    measured: list[Measured]
    costs: list[Cost]
    quarantine: Quarantine
    rejected: list[Rejection]
    generations: list[GenerationRow]
    changes: list[NamedChange]

    @property
    def age(self) -> str:
        """The time since the live generation went live, in its largest unit: ``3 days``."""
        if self.active is None or self.active.activated_at is None:
            return ""
        seconds = (self.now - self.active.activated_at).total_seconds()
        size, unit = next((size, unit) for size, unit in _UNITS if seconds >= 2 * size or size == 1)
        number = max(0, int(seconds // size))
        return f"{number} {unit}{'s' * (number != 1)}"

    @property
    def live(self) -> GenerationRow | None:
        """The live generation's row of ``generations``."""
        return next((row for row in self.generations if row.state == "active"), None)

    @property
    def routes(self) -> Counter[str | None]:
        """Number of runs by route; None: no route was chosen."""
        return Counter(run.route for run in self.runs)

    @property
    def months(self) -> list[list[Cost]]:
        """Costs by month, the latest first."""
        return [list(rows) for _, rows in groupby(self.costs, key=lambda cost: cost.month)]

    @property
    def rose(self) -> list[NamedChange]:
        """Questions that gained by the last promotion, most first."""
        return [change for change in self.changes if change.gain > 0]

    @property
    def fell(self) -> list[NamedChange]:
        """Questions that lost by the last promotion, most first."""
        return [change for change in reversed(self.changes) if change.gain < 0]


# A run that promoted a system leaves its quality, a nudge that of the rows it kept, any other that of the live ones.
_MEASURED = """FROM (
    WITH told AS (
        SELECT r.run_id, r.started_at, c.result -> 'refs' AS chosen, n.result -> 'counts' AS nudged,
               coalesce(c.result -> 'refs' ->> 'generation_id' = c.result -> 'refs' ->> 'best_id'
                        AND c.result -> 'refs' ->> 'best_id' <> '0', false) AS promoted
        FROM heal.run r
        LEFT JOIN heal.step_result c ON c.run_id = r.run_id AND c.step = 'choose' AND c.finished_at IS NOT NULL
        LEFT JOIN heal.step_result n ON n.run_id = r.run_id AND n.step = 'nudge_live' AND n.finished_at IS NOT NULL
        WHERE EXISTS (SELECT FROM heal.evaluation e WHERE e.run_id = r.run_id)
        ORDER BY r.started_at DESC LIMIT %s
    )
    SELECT DISTINCT ON (t.started_at, e.question_set, e.metric)
           t.run_id, t.started_at, t.promoted, e.question_set, e.metric, e.value, e.low, e.high, e.questions
    FROM told t JOIN heal.evaluation e ON e.run_id = t.run_id AND e.metric = ANY (%s) AND e.system = CASE
        WHEN t.promoted THEN t.chosen ->> 'best_system'
        WHEN t.nudged IS NULL THEN 'live generation'
        WHEN t.nudged ->> 'refused' = '1' THEN 'live before' ELSE 'live after' END
    ORDER BY t.started_at, e.question_set, e.metric, e.evaluation_id DESC) measured"""

_COSTS = """FROM (
    SELECT m.month, c.* FROM (
        SELECT (this - make_interval(months => ago)) AT TIME ZONE 'UTC' AS month,
               (this - make_interval(months => ago - 1)) AT TIME ZONE 'UTC' AS next
        FROM date_trunc('month', now() AT TIME ZONE 'UTC') this, generate_series(0, %s) ago) m
    CROSS JOIN LATERAL (
        SELECT purpose, count(*) AS calls, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
               sum(cost_usd) AS cost_usd
        FROM heal.llm_call WHERE created_at >= m.month AND created_at < m.next GROUP BY 1) c
    ORDER BY m.month DESC, c.cost_usd DESC, c.purpose) spent"""

_QUARANTINE = """FROM (
    SELECT count(*) FILTER (WHERE mended_at IS NULL) AS rejections,
           coalesce(sum(records) FILTER (WHERE mended_at IS NULL), 0) AS records,
           count(*) FILTER (WHERE mended_at IS NOT NULL) AS mended FROM heal.quarantine) counted"""

_SERVED = """
SELECT (SELECT count(*) FROM heal.document) - (SELECT count(*) FROM heal.document WHERE deleted_at IS NOT NULL),
       (SELECT count(*) FROM heal.document WHERE duplicate_of IS NOT NULL),
       (SELECT count(*) FROM heal.chunk) - (SELECT count(*) FROM heal.chunk WHERE superseded_at IS NOT NULL),
       {rows}, (SELECT count(*) FROM heal.chunk c WHERE c.superseded_at IS NOT NULL AND {is_served})
"""


def read_store(conn: Connection) -> StoreState:
    """Read the state of the store, in one snapshot; psycopg's UndefinedTable where the schema is missing."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        runs, active = RunRepository(conn), GenerationRepository(conn).active()
        quarantine = find(conn, Quarantine, _QUARANTINE)
        assert quarantine is not None
        return StoreState(
            now=datetime.now(UTC),
            served=_count_served(conn, active),
            active=active,
            space=SpaceRepository(conn).get(active.space_id) if active else None,
            made_by=runs.get_run(active.run_id) if active else None,
            tree=read_tree(conn, active.topic_run_id) if active and active.topic_run_id else None,
            runs=runs.recent_runs(RUNS),
            measured=select(conn, Measured, _MEASURED, (MEASURED_RUNS, [NDCG, TOPIC_AGREEMENT])),
            costs=select(conn, Cost, _COSTS, (MONTHS - 1,)),
            quarantine=quarantine,
            rejected=select(
                conn, Rejection,
                "FROM heal.quarantine WHERE mended_at IS NULL ORDER BY created_at DESC, quarantine_id DESC LIMIT %s",
                (REJECTED,),
            ),
            generations=select(
                conn, GenerationRow,
                "FROM heal.generation_status "
                "ORDER BY state IN ('active', 'previous', 'ready') DESC, generation_id DESC LIMIT %s",
                (GENERATIONS,),
            ),
            changes=last_rank_changes(conn),
        )  # fmt: skip


def _count_served(conn: Connection, active: Generation | None) -> Served:
    rows: sql.Composable = sql.SQL("0")
    is_served: sql.Composable = sql.SQL("false")
    if active:
        table = active.table("vec")
        rows = sql.SQL("(SELECT count(*) FROM {})").format(table)
        is_served = sql.SQL("EXISTS (SELECT FROM {} v WHERE v.chunk_id = c.chunk_id)").format(table)
    query = sql.SQL(_SERVED).format(rows=rows, is_served=is_served)
    documents, duplicates, chunks, served, stale = conn.execute(query).fetchall()[0]
    return Served(documents, duplicates, served, chunks - (served - stale), stale)
