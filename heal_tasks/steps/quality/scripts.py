"""Texts in scripts that the base model does not read: found before a run, and by the questions that a run loses."""

from collections import Counter
from collections.abc import Iterable

from heal_tasks.core.models import api_model, packaged_folder
from heal_tasks.core.scripts import script_of
from heal_tasks.core.settings import Settings
from heal_tasks.sources.chunking import unknown_share
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus

CURE = "set HEAL_MODEL to a multilingual model"
SAMPLE = 500
"""Chunks that are looked at: half a second for the tokenizer."""
_MOST_UNKNOWN = 0.5
_FEWEST_QUESTIONS = 5
_MOST = 0.5


def unread_chunks(conn: Connection, settings: Settings) -> str:
    """A sentence about the chunks more than half of whose letters the model's tokenizer does not know; empty if none.

    Their vectors are almost the same. Models that are not in a folder, or behind an API, are not looked at.
    """
    texts = Corpus(conn).sampled_texts()[:SAMPLE]
    foreign = [text for text in texts if not text.isascii()]
    if not foreign or api_model(settings.model):
        return ""
    shares = unknown_share(packaged_folder(settings.model) or settings.model, foreign)
    unread = [text for text, share in zip(foreign, shares, strict=True) if share > _MOST_UNKNOWN]
    if not unread:
        return ""
    (script, _), *_ = Counter(map(script_of, unread)).most_common(1)
    of_sample = f"{len(unread)} of {len(texts)}" + (" sampled" if len(texts) == SAMPLE else "")
    return (
        f"{settings.model} does not know most letters of {of_sample} chunks (mostly {script} script), which only their "
        f"words tell apart; {CURE}"
    )


def lost_questions(checked: Iterable[tuple[str, bool]]) -> list[str]:
    """A phrase for every script but Latin that has lost half of its questions or more to the round-trip check.

    ``checked`` has each question that was checked, and if it was dropped.
    """
    number, dropped = Counter[str](), Counter[str]()
    for text, lost in checked:
        script = script_of(text)
        number[script] += 1
        dropped[script] += lost
    return [
        f"{dropped[script]} of {number[script]} questions in {script} script were dropped by round_trip: the model "
        f"hardly reads it; {CURE}"
        for script in sorted(number)
        if script not in ("", "Latin")
        and number[script] >= _FEWEST_QUESTIONS
        and dropped[script] >= _MOST * number[script]
    ]
