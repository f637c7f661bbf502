"""Division of a text into chunks: at headings first, then at blocks, then at sentences, and last anywhere.

Every boundary has a price, a chunk that is not full has one, and so has a heading within a chunk. The division with the
lowest sum is found by dynamic programming; bench/chunking.py compares prices.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from heal_tasks.core.text import HEADINGS_JOINED_BY, MAX_HEADING_CHARS
from heal_tasks.core.types import TokenCounter
from heal_tasks.sources.structure import Break, Piece, fields, pieces

# WordPiece counts a megabyte of base64 as one unknown token. Prose has four to five characters per token.
MAX_CHARS_PER_TOKEN = 16

_BOUNDARY_PRICE = {Break.SECTION: 0.0, Break.BLOCK: 0.05, Break.SENTENCE: 0.1, Break.ANYWHERE: 0.2}
_HEADING_WITHIN_PRICE = 0.3
_MAX_PIECES = 64
"""Of a chunk, so that a million lines of one letter take seconds."""


class Measure:
    """Sizes of chunks of one document, in tokens.

    Args:
        title: of the document.
        title_text: what the encoder reads before a chunk's text, given the headings that the chunk is under.
        count_tokens: tokens of a text as the model reads it, special tokens included.
        max_tokens: most tokens of a chunk.
    """

    def __init__(
        self, title: str, title_text: Callable[[str], str], count_tokens: TokenCounter, max_tokens: int
    ) -> None:
        self._count, self._max, self._special = count_tokens, max_tokens, count_tokens("")
        self._title, self._title_text = _plain(title), title_text
        self._title_tokens: dict[str, int] = {}  # by headings
        if self.title_tokens("") > max_tokens // 2:
            self._max, self._title_text = max_tokens // 2, lambda _: ""
            self._title_tokens = {}

    def title_tokens(self, heading: str) -> int:
        """Tokens before the text of a chunk under a heading."""
        if heading not in self._title_tokens:
            self._title_tokens[heading] = self._count(self._title_text(heading)) - self._special
        return self._title_tokens[heading]

    def heading(self, path: Sequence[str]) -> str:
        """The headings of a path in one line of at most 120 characters; outer ones are left out first."""
        names = list(path[1:] if path and _plain(path[0]) == self._title else path)
        while len(names) > 1 and len(HEADINGS_JOINED_BY.join(names)) > MAX_HEADING_CHARS:
            del names[0]
        line = HEADINGS_JOINED_BY.join(name for name in names if name)
        line = line if len(line) <= MAX_HEADING_CHARS else f"{line[: MAX_HEADING_CHARS - 1].rstrip()}…"
        return line if self.title_tokens(line) <= self._max // 2 else ""

    def capacity(self, heading: str) -> int:
        """Tokens that the text of a chunk under a heading may have."""
        return self._max - self._special - self.title_tokens(heading)

    def cost(self, text: str) -> int:
        """Tokens of a part of a chunk."""
        return max(self._count(text) - self._special, -(-len(text) // MAX_CHARS_PER_TOKEN))

    def fits(self, heading: str, text: str) -> bool:
        """True if a text fits below a heading."""
        text = text.strip()
        if len(text) > self.capacity(heading) * MAX_CHARS_PER_TOKEN:
            return False
        return self._count(self._title_text(heading) + text) <= self._max


class _Part(NamedTuple):
    """A piece, or a part of one that is too long, with its size."""

    text: str
    tokens: int
    begins: Break
    path: tuple[str, ...]
    room: int  # tokens of a chunk that begins with it, without what is carried
    carried: str = ""  # what a chunk that begins with it begins with


def divide(body: str, measure: Measure, overlap: int) -> Iterator[tuple[str, str]]:
    """Divide a text into chunks that fit: heading and text of each, in order, without white space around it.

    Args:
        body: the text.
        measure: of its document.
        overlap: most tokens of the sentences before a chunk that it begins with.
    """
    parts = [part for piece in pieces(body) for part in _limited(piece, measure)]
    start = 0
    for end in _ends(parts, measure.capacity(""), overlap):
        group = parts[start:end]
        heading = measure.heading(_common_path(group))
        before = _before(parts, start, overlap) if overlap else ""
        if before and measure.fits(heading, before + _joined(group)):
            yield heading, (before + _joined(group)).strip()
        else:
            yield from ((heading, text) for text in _verified(group, heading, measure))
        start = end


def cut_text(text: str, parts: int) -> Iterator[str]:
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


def _limited(piece: Piece, measure: Measure) -> Iterator[_Part]:
    """The piece if it fits into a chunk, else its parts: a row of a table by its cells, other text by words."""
    room = measure.capacity(measure.heading(piece.path))
    begins_table = piece.text != piece.row
    carried = "" if begins_table else piece.header
    left = room - measure.cost(carried) if carried else room
    tokens = measure.cost(piece.text)
    if tokens <= left:
        yield _Part(piece.text, tokens, piece.begins, piece.path, left, carried)
        return
    begins = piece.begins
    texts = [(piece.text, "")]
    if piece.row:
        name, *others = fields(piece.row, piece.header, empty=begins_table) or [
            piece.row
        ]  # the first row keeps all names
        behind = name if 4 * measure.cost(name) <= room else ""
        headings = piece.text[: -len(piece.header + piece.row)] if begins_table else ""
        texts = [(headings, ""), (name, ""), *((line, behind) for line in others)]
    for text, carried in texts:
        left = room - measure.cost(carried) if carried else room
        for part, size in _cut_to(text, measure.cost, left):
            yield _Part(part, size, begins, piece.path, left, carried)
            begins = Break.SENTENCE if piece.row else Break.ANYWHERE


def _cut_to(text: str, cost: Callable[[str], int], room: int) -> Iterator[tuple[str, int]]:
    """Parts of a text with their sizes, none above the room."""
    tokens = cost(text)
    if tokens <= room or len(text) <= 1:
        if text:
            yield text, tokens
        return
    for part in cut_text(text, max(2, -(-tokens // room))):
        yield from _cut_to(part, cost, room)


def _ends(parts: Sequence[_Part], capacity: int, overlap: int) -> list[int]:
    """The ends of the chunks of the cheapest division."""
    best, begin = [0.0], [0]
    headings = [0]  # before each part
    for part in parts:
        headings.append(headings[-1] + (part.begins is Break.SECTION))
    for end in range(1, len(parts) + 1):
        lowest, chosen, tokens = float("inf"), end - 1, 0
        for start in range(end - 1, max(-1, end - 1 - _MAX_PIECES), -1):
            part = parts[start]
            tokens += part.tokens
            if tokens > capacity and start < end - 1:
                break
            room = part.room - (overlap if start and _continues(part) else 0)
            if tokens > room and start < end - 1:
                continue
            price = (
                best[start]
                + _BOUNDARY_PRICE[part.begins]
                + max(0.0, 1 - (tokens + capacity - part.room) / capacity) ** 2
                + _HEADING_WITHIN_PRICE * (headings[end] - headings[start + 1])
            )
            if price < lowest:
                lowest, chosen = price, start
        best.append(lowest)
        begin.append(chosen)
    ends = []
    end = len(parts)
    while end:
        ends.append(end)
        end = begin[end]
    return ends[::-1]


def _continues(part: _Part) -> bool:
    """True if a chunk that begins with the part may begin with sentences before it."""
    return part.begins is not Break.SECTION and not part.carried


def _before(parts: Sequence[_Part], start: int, overlap: int) -> str:
    """The text before a part, in its section, of so many tokens at most."""
    first, tokens = start, 0
    while first and _continues(parts[first]) and tokens + parts[first - 1].tokens <= overlap:
        first -= 1
        tokens += parts[first].tokens
    return "".join(part.text for part in parts[first:start])


def _common_path(group: Sequence[_Part]) -> tuple[str, ...]:
    """The headings of the first part; of several sections those that they share, for the text names the others."""
    path = group[0].path
    if group[0].begins is Break.SECTION:
        for part in group:
            shared = 0
            while shared < min(len(path), len(part.path)) and path[shared] == part.path[shared]:
                shared += 1
            path = path[:shared]
    return path


def _joined(group: Sequence[_Part]) -> str:
    return group[0].carried + "".join(part.text for part in group)


def _verified(group: Sequence[_Part], heading: str, measure: Measure) -> Iterator[str]:
    """The group as one chunk if it fits, else in halves."""
    text = _joined(group).strip()
    if len(text) <= 1 or measure.fits(heading, text):
        yield text
        return
    if len(group) == 1:
        (part,) = group
        if part.carried:
            yield from _verified([part._replace(carried="")], heading, measure)
            return
        group = [part._replace(text=half) for half in cut_text(part.text, 2)]
    middle = len(group) // 2
    yield from _verified(group[:middle], heading, measure)
    yield from _verified(group[middle:], heading, measure)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
