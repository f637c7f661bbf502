"""Everything worth knowing about one run, read from the store: what the report page and the terminal show."""

from collections import Counter
from dataclasses import dataclass

from heal_tasks.core.types import JsonObject
from heal_tasks.evaluation.answers import ANSWERED
from heal_tasks.report.stored_tree import StoredTree, read_tree
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus, Pending
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.documents.topics import TopicRepository, TopicRow
from heal_tasks.store.generations.generation import ServedRow, served_rows
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.llm.ledger import LedgerRow, ledger
from heal_tasks.store.questions.questions import QuestionRepository
from heal_tasks.store.runs.runs import EvaluationRow, Run, RunRepository, StepRow

SAMPLES = 8
DROPPED = "dropped_"
MAPS = "map_entities"


@dataclass(frozen=True)
class Summary:
    """One run.

    Args:
        run: route, reason, verdict.
        steps: every step with its counts and time, in the order they started.
        documents: counts of live documents, duplicates, deleted documents and chunks.
        quarantined: source, path, line and reason of what was refused in this run.
        topics: the active generation's topic tree, in tree order.
        tree: the topic tree that the run built, served or not; the active generation's where it built none.
        question_counts: writer, kind, split and number of questions.
        samples: document id, question, answer, kind, writer and document title of a few new questions.
        dropped_samples: document id, question, reason, kind, writer and document title of a few that this run's filters
            refused.
        ledger: language-model calls of this run.
        evaluations: quality by system, set and metric.
        active: the generation that serves now.
        served: state, rows, dead rows, bytes of table and of index, recall@10, ef_search of what can be searched now.
        unserved: live chunks that the active generation lacks; stale ones that it still serves.
    """

    run: Run
    steps: list[StepRow]
    documents: dict[str, int]
    quarantined: list[tuple[str, str, int, str]]
    topics: list[TopicRow]
    tree: StoredTree | None
    question_counts: list[tuple[str, str, str, int]]
    samples: list[tuple[int, str, str, str, str, str]]
    dropped_samples: list[tuple[int, str, str, str, str, str]]
    ledger: list[LedgerRow]
    evaluations: list[EvaluationRow]
    active: Generation | None
    served: list[ServedRow]
    unserved: Pending

    @property
    def built_topics(self) -> bool:
        """Whether ``tree`` is of this run."""
        return _built(self.steps) is not None

    def evaluation_table(self, metric: str = "ndcg@10") -> list[EvaluationRow]:
        """The rows of one metric, by question set and then in the order they were measured."""
        rows = [row for row in self.evaluations if row.metric == metric]
        return sorted(rows, key=lambda row: row.question_set)

    def answer_table(self) -> dict[str, dict[str, EvaluationRow]]:
        """What came of answered questions, by system in the order they were measured, and metric."""
        found: dict[str, dict[str, EvaluationRow]] = {}
        for row in self.evaluations:
            if row.question_set == ANSWERED:
                found.setdefault(row.system, {})[row.metric] = row
        return found

    def questions_by_writer(self) -> dict[str, int]:
        """Number of questions by writer."""
        counts: Counter[str] = Counter()
        for writer, _, _, number in self.question_counts:
            counts[writer] += number
        return counts

    def question_table(self) -> list[tuple[str, str, int, int, int]]:
        """Writer, kind, and number of questions trained on, held out of seen documents, and of unseen documents."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        for writer, kind, split, number in self.question_counts:
            counts.setdefault((writer, kind), Counter())[split.split("_")[0]] += number
        return [(*key, found["train"], found["seen"], found["unseen"]) for key, found in counts.items()]

    def asking(self, name: str) -> float:
        """A count of step ask, over all shards of this run."""
        return float(sum(counts.get(name, 0) for counts in self._counts("ask")))

    def maps(self) -> dict[str, float]:
        """Counts of step map_entities over all shards, of what is in store the last one's; empty without it."""
        ended = [row for row in self.steps if row.step == MAPS and row.result and row.finished_at]
        ended.sort(key=lambda row: str(row.finished_at))
        counts = [row.result["counts"] for row in ended if row.result and row.result["counts"]]
        if not counts:
            return {}
        added = {name: sum(shard[name] for shard in counts) for name in counts[0]}
        return {**added, **{name: counts[-1][name] for name in ("usable", "reduction")}}

    def dropped(self) -> dict[str, int]:
        """How many new questions each filter refused in this run; those that refused none as 0."""
        return self._dropped("ask")

    def sifted(self) -> dict[str, int]:
        """How many questions each filter that needs vectors keeps from being learnt from, 0 included."""
        return self._dropped("sift")

    def checked(self) -> int:
        """How many questions those filters looked at in this run."""
        return int(sum(counts.get("checked", 0) for counts in self._counts("sift")))

    def _dropped(self, step: str) -> dict[str, int]:
        refused: Counter[str] = Counter()
        for counts in self._counts(step):
            refused.update({name: int(number) for name, number in counts.items() if name.startswith(DROPPED)})
        return {name.removeprefix(DROPPED): number for name, number in refused.items()}

    def _counts(self, step: str) -> list[JsonObject]:
        return [row.result["counts"] for row in self.steps if row.step == step and row.result]

    def budgets(self) -> list[str]:
        """The budgets that this run had, for people."""
        found = self._counts("ask")
        return [
            f"{max(counts.get(name, 0) for counts in found):.2f} USD per {what}"
            for name, what in (("run_budget_usd", "run"), ("day_budget_usd", "day"))
            if any(counts.get(name) for counts in found)
        ]


def summarise(conn: Connection, run_id: str) -> Summary | None:
    """Read a run's summary.

    Args:
        conn: an open connection.
        run_id: the run.

    Returns:
        The summary, or None where there is no such run.
    """
    runs, questions = RunRepository(conn), QuestionRepository(conn)
    run = runs.get_run(run_id)
    if run is None:
        return None
    steps = runs.steps_of(run_id)
    active = GenerationRepository(conn).active()
    served = active.topic_run_id if active else None
    shown = _built(steps) or served
    samples = conn.execute(
        """SELECT c.document_id, q.text, q.answer, q.kind, q.writer, d.title
        FROM heal.question q JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
        WHERE q.dropped_by IS NULL ORDER BY q.created_at DESC, q.question_id LIMIT %s""",
        (SAMPLES,),
    ).fetchall()
    dropped = conn.execute(
        """SELECT c.document_id, q.text, q.reason, q.kind, q.writer, d.title
        FROM (SELECT *, row_number() OVER (PARTITION BY reason ORDER BY dropped_id) AS place
              FROM heal.question_dropped WHERE run_id = %s) q
        JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
        ORDER BY q.place, q.reason LIMIT %s""",
        (run_id, SAMPLES),
    ).fetchall()
    return Summary(
        run=run,
        steps=steps,
        documents=DocumentRepository(conn).counts(),
        quarantined=runs.quarantined(run_id),
        topics=TopicRepository(conn).topics(served) if served else [],
        tree=read_tree(conn, shown) if shown else None,
        question_counts=questions.counts(),
        samples=[(document, *texts) for document, *texts in samples],
        dropped_samples=[(document, *texts) for document, *texts in dropped],
        ledger=ledger(conn, run_id),
        evaluations=runs.evaluations(run_id),
        active=active,
        served=served_rows(conn),
        unserved=Corpus(conn).pending(active.generation_id if active else None, None),
    )


def _built(steps: list[StepRow]) -> int | None:
    """The topic run that these steps made, if they made one."""
    return next((int(row.result["refs"]["topic_run_id"]) for row in steps if row.step == "label" and row.result), None)
