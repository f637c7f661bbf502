"""Drafts that pass the filters, and those that do not, by reason."""

from collections import Counter
from collections.abc import Collection, Iterable

from heal_tasks.core.setting_groups import QUESTION_FILTERS, QuestionFilter
from heal_tasks.questions.filters import Reason, check_drafts
from heal_tasks.questions.writer import ChunkToAsk, Draft


def apply_filters(
    drafts: Iterable[Draft], chunk: ChunkToAsk, filters: Collection[QuestionFilter] = QUESTION_FILTERS
) -> tuple[list[Draft], Counter[Reason]]:
    checked = list(check_drafts(drafts, chunk, filters))
    return [draft for draft, reason in checked if reason is None], Counter(reason for _, reason in checked if reason)
