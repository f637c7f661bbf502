"""The facts of one run, read from the store, for its page and the terminal."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime

from heal_tasks.core.metrics import NDCG, TOPIC_AGREEMENT
from heal_tasks.core.types import JsonObject
from heal_tasks.evaluation.answers import ANSWERED
from heal_tasks.report.stored_tree import StoredTree, read_tree
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus, Pending
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.served import ServedRow, served_rows
from heal_tasks.store.llm.ledger import LedgerRow, ledger
from heal_tasks.store.questions.questions import QuestionRepository
from heal_tasks.store.runs.runs import EvaluationRow, Run, RunRepository, StepRow
from heal_tasks.store.spaces.spaces import Space, SpaceRepository


@dataclass(frozen=True)
class Summary:
    """One run and the state that it left, or that there is while it goes on; no text of documents or questions."""

    run: Run
    steps: list[StepRow]
    documents: dict[str, int]
    quarantined: list[tuple[str, str, int, str]]  # source, path, line and reason of the input that this run rejected
    tree: StoredTree | None  # the topic tree that the run built, or else that of ``active``
    tree_origin: str  # of ``tree``, in words
    question_counts: list[tuple[str, str, str, int]]  # writer, kind, split, number
    ledger: list[LedgerRow]
    evaluations: list[EvaluationRow]
    active: Generation | None  # the generation that was live at the end of the run
    space: Space | None  # of ``active``
    served: list[ServedRow]  # the active and the previous generation
    unserved: Pending
    ended_at: datetime | None  # None if a step has begun or ended since the run's row was closed, or it is open

    @property
    def active_line(self) -> str:
        """The live generation in a few words."""
        active = self.active
        if active is None:
            return "no generation is active yet"
        nudge = active.nudge
        words = [f"space {active.space_id}", f"{active.dims} dimensions"]
        words.append(f"NUDGE-{nudge['variant']} with theta {nudge['theta']:.3f}" if nudge else "not nudged")
        if active.index_kind == "none":
            words.append("no index, so a search compares all rows")
        elif active.recall is not None:
            words.append(f"recall@10 of its {active.index_kind} index {active.recall:.3f}")
        if active.activated_at:
            words.append(f"since {active.activated_at.astimezone():%Y-%m-%d %H:%M %Z}")
        now = "" if active.state == "active" else f", {active.state} now"
        return f"generation {active.generation_id} ({', '.join(words)}){now}"

    def state(self) -> JsonObject:
        """The numbers that change after the run, as ``heal.run.state`` keeps them."""
        return {
            "documents": self.documents,
            "questions": self.question_counts,
            "served": [asdict(row) for row in self.served],
            "unserved": asdict(self.unserved),
        }

    def evaluation_table(self) -> list[EvaluationRow]:
        """The rows of the metrics that judge, by set and then in the order they were measured."""
        rows = [row for row in self.evaluations if row.metric in (NDCG, TOPIC_AGREEMENT)]
        return sorted(rows, key=lambda row: (row.metric, row.question_set))

    def answer_table(self) -> dict[str, dict[str, EvaluationRow]]:
        """Quality of the answers to questions, by system in the order they were measured, and metric."""
        table: dict[str, dict[str, EvaluationRow]] = {}
        for row in self.evaluations:
            if row.question_set == ANSWERED:
                table.setdefault(row.system, {})[row.metric] = row
        return table

    def question_table(self) -> list[tuple[str, str, int, int, int]]:
        """Writer, kind, and number of questions trained on, held out of seen documents, and of unseen documents."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        for writer, kind, split, number in sorted(self.question_counts):
            counts.setdefault((writer, kind), Counter())[split.split("_")[0]] += number
        return [(*key, splits["train"], splits["seen"], splits["unseen"]) for key, splits in counts.items()]

    def total(self, step: str, name: str) -> int:
        """A count of a step, added up over its shards in this run."""
        return int(sum(counts.get(name, 0) for counts in self._counts(step)))

    def dropped(self, step: str = "ask") -> dict[str, int]:
        """Number of questions that each filter of step ``ask`` or ``sift`` dropped in this run, 0 included."""
        dropped: Counter[str] = Counter()
        for counts in self._counts(step):
            dropped.update({name: int(number) for name, number in counts.items() if name.startswith("dropped_")})
        return {name.removeprefix("dropped_"): number for name, number in dropped.items()}

    def maps(self) -> dict[str, float]:
        """Counts of step ``map_entities`` over its shards, and the totals in the store after the last; or empty."""
        rows = [row for row in self.steps if row.step == "map_entities" and row.result and row.finished_at]
        rows.sort(key=lambda row: str(row.finished_at))
        counts = [row.result["counts"] for row in rows if row.result and row.result["counts"]]
        if not counts:
            return {}
        return {name: sum(shard[name] for shard in counts) for name in counts[0]} | {
            name: counts[-1][name] for name in ("usable", "reduction")
        }

    def spend_limits(self) -> list[str]:
        """The spend limits of this run, as text."""
        shards = self._counts("ask")
        return [
            f"{max(counts.get(name, 0) for counts in shards):.2f} USD per {period}"
            for name, period in (("run_spend_limit_usd", "run"), ("day_spend_limit_usd", "day"))
            if any(counts.get(name) for counts in shards)
        ]

    def undone(self) -> list[str]:
        """Work that steps had nothing for, with the reason, as sentences in the order of the steps."""
        said = (row.result.get("undone") for row in self.steps if row.result and row.finished_at)
        return list(dict.fromkeys(f"{sentence}." for sentence in said if sentence))

    def _counts(self, step: str) -> list[JsonObject]:
        return [row.result["counts"] for row in self.steps if row.step == step and row.result]


def summarise(conn: Connection, run_id: str) -> Summary | None:
    """Read the facts of a run; None if there is no such run."""
    runs = RunRepository(conn)
    run = runs.get_run(run_id)
    if run is None:
        return None
    steps, generations = runs.steps_of(run_id), GenerationRepository(conn)
    ended_at, state = run.finished_at, run.state
    if ended_at is None or any((row.finished_at or row.started_at) > ended_at for row in steps if row.step != "report"):
        ended_at = state = None
    active = generations.active()
    if state is not None:
        active = generations.get(run.generation_id) if run.generation_id else None
    label = next((row for row in steps if row.step == "label" and row.result), None)
    topic_run_id, origin = active.topic_run_id if active else None, "of the live generation"
    if label and label.result:
        topic_run_id, origin = label.result["refs"]["topic_run_id"], "built by this run"
        if label.reused_from:
            origin = f"built by run {label.reused_from} of the same documents"
    elif active and active.state != "active":
        origin = f"of generation {active.generation_id}"
    return Summary(
        run=run,
        steps=steps,
        documents=state["documents"] if state else DocumentRepository(conn).counts(),
        quarantined=runs.quarantined(run_id),
        tree=read_tree(conn, topic_run_id) if topic_run_id else None,
        tree_origin=origin,
        question_counts=[tuple(row) for row in state["questions"]] if state else QuestionRepository(conn).counts(),
        ledger=ledger(conn, run_id),
        evaluations=runs.evaluations(run_id),
        active=active,
        space=SpaceRepository(conn).get(active.space_id) if active else None,
        served=[ServedRow(**row) for row in state["served"]] if state else served_rows(conn),
        unserved=Pending(**state["unserved"]) if state else _unserved(conn, active),
        ended_at=ended_at,
    )


def _unserved(conn: Connection, active: Generation | None) -> Pending:
    return Corpus(conn).pending(active.generation_id if active else None, None)
