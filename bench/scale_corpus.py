"""A planted corpus for the rehearsal at scale: documents as text, and an encoder that is a function of a text's words.

Words are those of the packaged model's tokenizer, drawn as in ``bench.planted`` (Zipf's law, topics); one in fifty is
rare, from a tail that grows with the corpus by Heaps' law. A vector is a sum of random directions: of the words of the
text, of the document, which the title names, and of the text itself. So chunks of a document are near each other, and a
lexicon can be fitted.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from bench.planted import plant
from heal_tasks.core.models import Role, resolve_model
from heal_tasks.core.types import Progress, silent

WORDS, DIMS, FILE_DOCUMENTS = 20_000, 384, 500
LENGTH = (680, 920)
"""Fewest and most words of a document."""
CHUNKS_PER_DOCUMENT, CHUNK_TOKENS = 10, 108
"""With so many tokens at most, documents of that length have ten chunks on average, of about 80 words."""
RARE_ONE_IN, HEAPS = 50, 30
HASHED, DRAWS = 8192, 4
_WORD, _DOCUMENT, _OWN = 1.0, 0.45, 0.25  # lengths of the three parts of a vector


def vocabulary() -> list[str]:
    """The first words of four letters and more of the packaged model's tokenizer, the most frequent first."""
    known = Tokenizer.from_file(str(Path(resolve_model("all-MiniLM-L6-v2")) / "tokenizer.json")).get_vocab()
    ordered = sorted(known, key=lambda word: known[word])
    return [word for word in ordered if word.isascii() and word.isalpha() and len(word) >= 4][:WORDS]


class PlantedEncoder:
    """Has the interface of an encoder; counts the CPU seconds that it takes, which are not the step's."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self._place = {word: number for number, word in enumerate(vocabulary())}
        self._table = rng.standard_normal((WORDS + HASHED, DIMS), dtype=np.float32) / np.float32(DIMS**0.5)
        # Frequent words say little, as with an inverse document frequency.
        self._weight = np.concatenate([np.log1p(np.arange(WORDS) / 20), np.ones(HASHED)]).astype(np.float32)

    def encode(
        self, texts: Sequence[str], *, role: Role = "document", progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Unit vectors, float32, shape (n, d); a question ends with its document's title, of two words."""
        columns, values, sizes = list[int](), list[NDArray[np.float32]](), list[int]()
        for text in texts:
            title, body = text.split("\n", 1) if role == "document" else (" ".join(text.split()[-2:]), text)
            words = [self._word(word) for word in body.lower().replace(".", "").split()]
            weights = self._weight[words]
            hashed = [*_places(title), *_places(text)]
            columns += words + hashed
            parts = np.repeat(np.float32([_DOCUMENT, _OWN]) / DRAWS**0.5, DRAWS)
            values += [_WORD * weights / np.linalg.norm(weights), parts]
            sizes.append(len(words) + len(hashed))
        ends = np.cumsum([0, *sizes])
        made = csr_array((np.concatenate(values), columns, ends), shape=(len(texts), len(self._table))) @ self._table
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)

    def _word(self, word: str) -> int:
        found = self._place.get(word, -1)
        return found if found >= 0 else WORDS + crc32(word.encode()) % HASHED


def _places(text: str) -> list[int]:
    return [WORDS + crc32(f"{draw}{text}".encode()) % HASHED for draw in range(DRAWS)]


def write_documents(inbox: Path, aside: Path, documents: int, more: int) -> None:
    """Write ``documents`` into files of JSON lines in an inbox, and ``more`` of the same kind into a file aside."""
    inbox.mkdir(parents=True, exist_ok=True)
    made = _documents(documents, more)
    for number in range(0, documents, FILE_DOCUMENTS):
        size = min(FILE_DOCUMENTS, documents - number)
        _write(inbox / f"part-{number:08d}.jsonl", [next(made) for _ in range(size)])
    _write(aside, list(made))


def drop_night(inbox: Path, aside: Path, new: int, changed: int, deleted: int) -> None:
    """Put ``new`` documents from aside into the inbox; change and delete documents of one or more files there."""
    spare = [json.loads(line) for line in aside.read_text(encoding="utf-8").splitlines()]
    _write(inbox / "night.jsonl", spare[:new])
    for file in sorted(inbox.glob("part-*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        gone, to_change = min(deleted, len(rows) // 4), min(changed, len(rows) // 4)
        for row, other in zip(rows[:to_change], spare, strict=False):
            row["text"] = ". ".join(row["text"].split(". ")[:-1]) + ". " + other["text"].split(". ")[1] + "."
        _write(file, rows[: len(rows) - gone])
        changed, deleted = changed - to_change, deleted - gone
        if not changed and not deleted:
            return


def _documents(documents: int, more: int) -> Iterator[dict[str, str]]:
    total, words = documents + more, np.array(vocabulary())
    counts, rng = plant(0, total, WORDS, 5, 4, length=LENGTH).counts, np.random.default_rng(5)
    tail = HEAPS * (documents * sum(LENGTH) / 2) ** 0.5
    for row in range(total):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        drawn = words[rng.permutation(np.repeat(counts.indices[part], counts.data[part].astype(np.int64)))].tolist()
        for place in rng.integers(len(drawn), size=len(drawn) // RARE_ONE_IN):
            drawn[place] = _rare(words, int(tail ** rng.random()))
        title = f"{_rare(words, row)} {words[rng.integers(WORDS)]}"
        yield {"id": f"d{row}", "title": title, "text": _sentences(drawn, rng)}


def _rare(words: NDArray[np.str_], rank: int) -> str:
    """A word of two, another for each rank below 400 million."""
    return f"{words[rank % WORDS]}{words[(rank // WORDS + 7919 * (rank % WORDS)) % WORDS]}"


def _sentences(words: list[str], rng: np.random.Generator) -> str:
    ends = np.cumsum(rng.integers(8, 17, size=len(words) // 8 + 1))
    starts = [0, *ends[ends < len(words)].tolist()]
    parts = [" ".join(words[start:end]).capitalize() for start, end in zip(starts, [*starts[1:], None], strict=True)]
    return ". ".join(parts) + "."


def _write(file: Path, rows: Sequence[dict[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
