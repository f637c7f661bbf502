"""Split texts into chunks that the embedding model reads whole.

Chunks end at sentences where possible and have about equal sizes, because the vector of a remainder of ten words is
near everything. Every sentence is counted once and every chunk once more: token counts of parts do not add up for all
tokenizers, so the sums plan the chunks and the count of each chunk decides.

The library semantic-text-splitter 0.33 was measured at the same limit on ATT&CK, SciFact, docstrings and Markdown. Both
cut inside a sentence at 0 to 3 % of the boundaries. But 2.7, .1, 1.9 and 5.5 % of its chunks have less than a quarter
of the limit (none here), it makes 13 % more chunks of docstrings and Markdown, takes 7 to 23 times the CPU time, and
keeps 20,000 characters of base64 as one chunk.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from heal_tasks.core.errors import InputError, SettingsError
from heal_tasks.core.text import title_line
from heal_tasks.core.types import TokenCounter
from heal_tasks.sources.division import Measure, divide

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TITLE_CHARS = 200
MIN_CHUNK_TOKENS = 16

_UNKNOWN = frozenset(("[UNK]", "<unk>"))


class Chunk(NamedTuple):
    """A text that gets one vector, and the headings that it is under, joined, below the document's title."""

    heading: str
    text: str


def embedding_text(title: str, text: str) -> str:
    """Text that the encoder reads for a chunk: title, cut to 200 characters, line break, text; no line if no title."""
    title = title[:MAX_TITLE_CHARS].strip()
    return f"{title}\n{text}" if title else text


def chunk_text(title: str, body: str, count_tokens: TokenCounter, max_tokens: int, overlap: int = 0) -> list[Chunk]:
    """Split a body so that every chunk fits the model together with its title line.

    Args:
        title: of the document.
        body: the text; may be empty.
        count_tokens: tokens of a text as the model reads it, special tokens included.
        max_tokens: most tokens of ``embedding_text(title_line(title, heading), text)``, at least 16. If the title line
            alone takes more than half of it, a chunk still gets half, and the encoder cuts the excess.
        overlap: most tokens of the sentences before a chunk that it begins with, in the same section.

    Returns:
        Non-empty chunks without surrounding white space, in order. Without overlap they are the body when joined,
        except for white space and tables: chunks within a table begin with its header, and a row that does not fit
        beside it is written as lines of names and values. A single character is never split, whatever it counts.

    Raises:
        InputError: ``max_tokens`` is below 16, or ``overlap`` above half of it.
    """
    if max_tokens < MIN_CHUNK_TOKENS:
        raise InputError(f"chunks of {max_tokens} tokens are too short for a title and a sentence; allow at least 16")
    if 2 * overlap > max_tokens:
        raise InputError(f"HEAL_CHUNK_OVERLAP={overlap} is more than half of a chunk of {max_tokens} tokens; lower it")
    body = body.strip()
    if not body:
        return []
    measure = Measure(title, lambda heading: embedding_text(title_line(title, heading), ""), count_tokens, max_tokens)
    if measure.fits("", body):
        return [Chunk("", body)]
    return [Chunk(heading, text) for heading, text in divide(body, measure, overlap) if text]


def token_counter(model_path: str) -> TokenCounter:
    """Make a function that counts tokens with a model's own tokenizer, special tokens included, without truncation.

    ``model_path`` is the folder of a model, or the id of one on the Hugging Face hub.

    Raises:
        SettingsError: there is no tokenizer at that path.
    """
    if fast := _fast_tokenizer(model_path):
        return lambda text: len(fast.encode(text))
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(model_path)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"HEAL_MODEL={model_path!r} has no tokenizer that can be loaded ({error}); give a folder or a hub id"
        ) from error
    return lambda text: len(slow(text, truncation=False, padding=False, verbose=False)["input_ids"])


def unknown_share(model_path: str, texts: Sequence[str]) -> list[float]:
    """Share of each text's letters that a model's tokenizer does not know; 0 where the folder has no fast tokenizer."""
    tokenizer = _fast_tokenizer(model_path)
    if tokenizer is None:
        return [0.0] * len(texts)

    def share(text: str) -> float:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        pairs = zip(encoding.tokens, encoding.offsets, strict=True)
        unknown = sum(_letters(text[start:end]) for token, (start, end) in pairs if token in _UNKNOWN)
        return unknown / (_letters(text) or 1)

    return [share(text) for text in texts]


def _fast_tokenizer(model_path: str) -> "Tokenizer | None":
    """The tokenizer in a model's folder, without truncation and padding; None where there is none."""
    file = Path(model_path) / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(file))
    found.no_truncation()
    found.no_padding()
    return found


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))
