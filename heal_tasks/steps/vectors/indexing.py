"""Indexes of a served table as the settings want them, with the recall measured."""

import sys
from dataclasses import dataclass

from heal_tasks.steps.engine.runner import Context
from heal_tasks.store.adopted.adopted import AdoptedRepository
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.indexing import IndexReport, build_indexes, reach_recall

EXACT_ROWS = 2000
"""Below, a generation gets no HNSW index: comparing 2,000 rows costs as much as a search in an index of 8,000."""
HALFVEC_ROWS = 20_000
"""From here on the index holds 16-bit copies: half as large at the same recall within .002; below some 4,000 rows it
would be slower, because the planner compares all rows there and has to convert them first (bench/RESULTS.md)."""
RECALL_QUESTIONS = 200
"""Stored questions that recall is measured with; each costs an exact search, 2 s for all on 20,000 rows."""


@dataclass(frozen=True)
class Indexed:
    """An indexed generation."""

    built: IndexReport
    recall: float | None  # recall@10 against an exact scan; None if there is no question to measure it with
    ef_search: int  # HNSW candidates per query that reach it
    fault: str  # why it must not be served, as a sentence; empty if it may be


def index_served(context: Context, generation: Generation) -> Indexed:
    """Index a generation's served rows, which are final, and measure the index on real questions."""
    settings = context.settings
    # Clients of an adopted table order by the vectors themselves, which an index of 16-bit copies does not serve.
    halfvec_rows = sys.maxsize if AdoptedRepository(context.conn).list() else HALFVEC_ROWS
    built = build_indexes(
        context.conn, generation, memory_mb=settings.index_memory_mb, parallel=settings.index_workers,
        exact_rows=EXACT_ROWS, halfvec_rows=halfvec_rows,
    )  # fmt: skip
    recall, ef_search = reach_recall(context.conn, generation, RECALL_QUESTIONS, settings.recall_target)
    fault = ""
    if recall is not None and recall < settings.recall_target:
        fault = f"recall@10 {recall:.3f} of the index misses HEAL_RECALL_TARGET={settings.recall_target}"
    return Indexed(built, recall, ef_search, fault)
