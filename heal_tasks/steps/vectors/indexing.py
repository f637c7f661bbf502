"""Indexes of a served table as the settings want them, with the recall measured."""

from dataclasses import dataclass

from heal_tasks.steps.engine.runner import Context
from heal_tasks.store.adopted.adopted import AdoptedRepository
from heal_tasks.store.generations.generations import Generation, IndexKind
from heal_tasks.store.generations.indexing import IndexReport, build_indexes, count_rows, reach_recall, recall

EXACT_ROWS = 2000
"""Below, a generation gets no HNSW index: comparing 2,000 rows costs as much as a search in an index of 8,000."""
HALFVEC_ROWS = 20_000
"""From here on the index holds 16-bit copies: half as large at the same recall within .002; below some 4,000 rows it
would be slower, because the planner compares all rows there and has to convert them first (bench/RESULTS.md)."""
VECTOR_DIMS = 2000
"""Most dimensions that pgvector's HNSW index takes of 32-bit vectors."""
RECALL_QUESTIONS = 200
"""Stored questions that recall is measured with; each costs an exact search, 2 s for all on 20,000 rows."""


@dataclass(frozen=True)
class Indexed:
    """An indexed generation."""

    built: IndexReport
    generation: Generation  # with its recall@10 against an exact scan, and the effort of a search that reaches it
    fault: str  # why it must not be served, as a sentence; empty if it may be
    note: str  # why the index is not of the kind that HEAL_INDEX asks for; empty if it is


def choose_kind(wanted: str, rows: int, generation: Generation, *, measurable: bool) -> tuple[IndexKind, str]:
    """Choose the content of the HNSW index; the second value says why it is not what HEAL_INDEX asks for, or is empty.

    Without ``measurable``, the recall cannot be measured, so that no oversampling can be chosen for an index of bits.
    """
    if rows < EXACT_ROWS:
        return "none", ""
    if wanted == "auto":
        return "halfvec" if rows >= HALFVEC_ROWS or generation.dims > VECTOR_DIMS else "vector", ""
    why = ""
    if wanted == "hnsw" and generation.dims > VECTOR_DIMS:
        why = f"pgvector indexes at most {VECTOR_DIMS} dimensions of 32 bits, and these vectors have {generation.dims}"
    elif wanted == "bit" and generation.metric == "inner_product":
        why = "bits have no length, by which the inner product of a NUDGE-M generation ranks"
    elif wanted == "bit" and not measurable:
        why = "without stored questions no recall can be measured, by which the oversampling of bits is chosen"
    if why:
        return "halfvec", f"the index is halfvec instead of {wanted}: {why}"
    kinds: dict[str, IndexKind] = {"hnsw": "vector", "halfvec": "halfvec", "bit": "bit"}
    return kinds[wanted], ""


def index_served(context: Context, generation: Generation) -> Indexed:
    """Index a generation's served rows, which are final, and measure the index on real questions.

    Where an index of bits misses the recall target, one of 16-bit copies takes its place.
    """
    conn, settings = context.conn, context.settings
    wanted, target = settings.index, settings.recall_target
    if wanted == "auto" and AdoptedRepository(conn).list():
        wanted = "hnsw"  # clients of an adopted table order by the vectors themselves, which no other index serves
    measurable = wanted != "bit" or recall(conn, generation, 1) is not None
    kind, note = choose_kind(wanted, count_rows(conn, generation), generation, measurable=measurable)
    while True:
        built = build_indexes(
            conn, generation, memory_mb=settings.index_memory_mb, parallel=settings.index_workers, kind=kind
        )
        found = reach_recall(conn, generation, RECALL_QUESTIONS, target)
        missed = found.recall is not None and found.recall < target
        if kind != "bit" or not missed:
            break
        kind = "halfvec"
        note = (
            f"the index is halfvec instead of bit: with {found.effort} recall@10 of bits was {found.recall:.3f}, below "
            f"HEAL_RECALL_TARGET={target}"
        )
    fault = f"recall@10 {found.recall:.3f} of the index misses HEAL_RECALL_TARGET={target}" if missed else ""
    return Indexed(built, found, fault, note)
