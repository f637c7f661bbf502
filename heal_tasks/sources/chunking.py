"""Split texts into chunks that the embedding model reads whole.

Chunks end at sentences where possible and have about equal sizes, because the vector of a remainder of ten words is
near everything. Every sentence is counted once and every chunk once more: token counts of parts do not add up for all
tokenizers, so the sums plan the chunks and the count of each chunk decides.

The library semantic-text-splitter 0.33 was measured at the same limit on ATT&CK, SciFact, docstrings and Markdown. Both
cut inside a sentence at 0 to 3 % of the boundaries. But 2.7, .1, 1.9 and 5.5 % of its chunks have less than a quarter
of the limit (none here), it makes 13 % more chunks of docstrings and Markdown, takes 7 to 23 times the CPU time, and
keeps 20,000 characters of base64 as one chunk.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heal_tasks.core.errors import InputError, SettingsError
from heal_tasks.core.types import TokenCounter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TITLE_CHARS = 200
MIN_CHUNK_TOKENS = 16
# WordPiece counts a megabyte of base64 as one unknown token. Prose has four to five characters per token.
MAX_CHARS_PER_TOKEN = 16

# After . ! ? and their like before anything but a small letter or a digit ("e.g. this", "Fig. 3"); after the full stops
# of scripts without blanks; at a blank line; at a line that starts like a heading, a list item or a prompt.
_BOUNDARY = re.compile(
    r"(?<=[.!?…؟۔।॥።։])[\"')\]”’»]{0,3}\s+(?=[^\sa-z0-9])|(?<=[。！？｡။។།])[\"')\]”’」』）》]{0,3}"
    r"|\n\s*\n|\n(?=[ \t]*[^\sa-z0-9])"
)

_UNKNOWN = frozenset(("[UNK]", "<unk>"))

_Piece = tuple[str, int]
"""Text and number of tokens."""


def embedding_text(title: str, text: str) -> str:
    """Text that the encoder reads for a chunk: title, cut to 200 characters, line break, text; no line if no title."""
    title = title[:MAX_TITLE_CHARS].strip()
    return f"{title}\n{text}" if title else text


def chunk_text(title: str, body: str, count_tokens: TokenCounter, max_tokens: int) -> list[str]:
    """Split a body so that every chunk fits the model together with the title.

    Args:
        title: of the document.
        body: the text; may be empty.
        count_tokens: tokens of a text as the model reads it, special tokens included.
        max_tokens: most tokens of ``embedding_text(title, chunk)``, at least 16. If the title alone takes more than
            half of it, a chunk still gets half, and the encoder cuts the excess.

    Returns:
        Non-empty chunks without surrounding white space, in order; joined they are the body except for white space. A
        single character is never split, however many tokens it has.

    Raises:
        InputError: ``max_tokens`` is below 16.
    """
    if max_tokens < MIN_CHUNK_TOKENS:
        raise InputError(f"chunks of {max_tokens} tokens are too short for a title and a sentence; allow at least 16")
    body = body.strip()
    special = count_tokens("")
    heading = embedding_text(title, "")
    heading_tokens = count_tokens(heading) - special
    if heading_tokens > max_tokens // 2:
        heading, heading_tokens, max_tokens = "", 0, max_tokens // 2
    capacity = max_tokens - special - heading_tokens

    def cost(text: str) -> int:
        return max(count_tokens(text) - special, -(-len(text) // MAX_CHARS_PER_TOKEN))

    def fits(text: str) -> bool:
        text = text.strip()
        return len(text) <= capacity * MAX_CHARS_PER_TOKEN and count_tokens(heading + text) <= max_tokens

    if not body or fits(body):
        return [body] if body else []

    pieces = [piece for sentence in _sentences(body) for piece in _limited(sentence, cost, capacity)]
    chunks = (chunk for group in _balanced(pieces, capacity) for chunk in _verified([text for text, _ in group], fits))
    return [text for chunk in chunks if (text := chunk.strip())]


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


def _sentences(body: str) -> Iterator[str]:
    """Sentences with the white space that follows them; joined they are the body."""
    start = 0
    for match in _BOUNDARY.finditer(body):
        if match.end() > start:
            yield body[start : match.end()]
            start = match.end()
    if start < len(body):
        yield body[start:]


def _limited(text: str, cost: TokenCounter, capacity: int) -> Iterator[_Piece]:
    """Parts of a sentence with their costs, none above the capacity; almost always the sentence itself."""
    tokens = cost(text)
    if tokens <= capacity or len(text) == 1:
        yield text, tokens
        return
    parts = max(2, -(-tokens // capacity))
    for part in _cut(text, parts):
        yield from _limited(part, cost, capacity)


def _cut(text: str, parts: int) -> Iterator[str]:
    """Cut a text of at least two characters into about equal parts: at a line end, a blank, a comma, or anywhere.

    Combining marks stay with their letters.
    """
    start = 0
    for left in range(parts, 1, -1):
        step = -(-(len(text) - start) // left)
        end = _behind_marks(text, start + step)
        after = start + step // 2
        for separator in ("\n", " ", "、", "，"):
            if (found := text.rfind(separator, after, end)) > start:
                end = found + 1
                break
        if start < end < len(text):
            yield text[start:end]
            start = end
    yield text[start:]


def _behind_marks(text: str, place: int) -> int:
    """The place moved behind the combining marks that follow it, at most eight and never to the end of the text."""
    for moved in range(place, min(place + 8, len(text))):
        if unicodedata.category(text[moved])[0] != "M":
            return moved
    return place


def _balanced(pieces: list[_Piece], capacity: int) -> list[list[_Piece]]:
    """Fewest groups of neighbouring pieces within the capacity, and of those the smallest largest group."""
    groups = _packed(pieces, capacity)
    low = max(tokens for _, tokens in pieces)
    high = max(capacity, low)
    while low < high:
        middle = (low + high) // 2
        tried = _packed(pieces, middle)
        if len(tried) == len(groups):
            groups, high = tried, middle
        else:
            low = middle + 1
    if len(groups) > 1:
        # The remainder is in the last group: move pieces from the group before it until both have about the same size.
        left, right = groups[-2:]
        while len(left) > 1 and _weight(right) + left[-1][1] < _weight(left):
            right.insert(0, left.pop())
    return groups


def _packed(pieces: list[_Piece], cap: int) -> list[list[_Piece]]:
    groups: list[list[_Piece]] = []
    filled = 0
    for piece in pieces:
        if not groups or filled + piece[1] > cap:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += piece[1]
    return groups


def _weight(group: list[_Piece]) -> int:
    return sum(tokens for _, tokens in group)


def _verified(group: list[str], fits: Callable[[str], bool]) -> Iterator[str]:
    """The group as one chunk if it fits, else in halves."""
    text = "".join(group)
    if len(text) == 1 or fits(text):
        yield text
        return
    if len(group) == 1:
        group = list(_cut(text, 2))
    middle = len(group) // 2
    yield from _verified(group[:middle], fits)
    yield from _verified(group[middle:], fits)
