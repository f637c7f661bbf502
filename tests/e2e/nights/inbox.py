"""What the sources hold, as plain values: the pipeline's store is compared with them every night.

Every version of a text has a word of its own, its mark, so that a text which is gone can be looked for everywhere.
Every document is about one animal and one tool, which no other has together: questions have known answers.
"""

import json
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from heal_tasks.core.ids import document_id
from tests.e2e import test_outcomes

ANIMALS = test_outcomes.ANIMALS | {
    "marmot": "zivrel", "pelican": "ostrade", "hornet": "jukhala", "salmon": "brimwek", "weasel": "fenoxid",
}  # fmt: skip
TOOLS = test_outcomes.TOOLS | {"funnel": "quarbin", "ladder": "mestoph"}
"""Each with the people's name for it."""
MARK = re.compile(r"qzx[a-z]{4}q")
"""With an end that no stemmer takes off."""
BUCKET, PREFIX = "nights", "docs"
TABLES = ("a.jsonl", "b.jsonl", "c.jsonl")
FIELD_WORDS, CHARACTERS = 40, 260


class Key(NamedTuple):
    """A document's name."""

    source: str
    external_id: str


@dataclass(frozen=True)
class Text:
    """A document as its source gives it."""

    path: str
    title: str
    body: str
    about: tuple[str, str]  # an animal and a tool
    origin: Key  # the name under which it came

    @property
    def mark(self) -> str:
        """The word that no other version of any text has."""
        return MARK.findall(self.body)[0]

    @property
    def is_row(self) -> bool:
        """True if it is a row of a file with many."""
        return self.path.endswith(".jsonl")


class Inbox:
    """A folder and a bucket, and the documents that they hold.

    Args:
        folder: of files, written by this class alone.
        client: of the bucket's server.
        material: rows to make documents of, in this order.
        draw: of all choices.
    """

    def __init__(self, folder: Path, client: Any, material: list[dict[str, Any]], draw: random.Random) -> None:
        self.folder, self.files, self.bucket = folder, f"file:{folder}", f"s3://{BUCKET}/{PREFIX}"
        self.texts: dict[Key, Text] = {}
        self.stored: dict[Key, Text] = {}  # what the last ingest that ended well has seen
        self.changed: set[str] = set()  # marks that a training set may hold: no document was deleted since
        self._client, self._material, self._draw, self._numbers = client, iter(material), draw, 0
        self._names = {name: name for name in TABLES}  # files that rows are in, by the name that they had first
        client.create_bucket(Bucket=BUCKET)

    def add(self, body: str = "", kind: str = "", path: str = "") -> None:
        """A document with text from the material, or with a text of its own."""
        row = {"title": f"report {self._next()}", "text": body} if body else next(self._material)
        taken = {text.about for text in self.texts.values()}
        free = [(animal, tool) for animal in ANIMALS for tool in TOOLS if (animal, tool) not in taken]
        about, kind = self._draw.choice(free), kind or self._draw.choice(("row", "row", "file", "object"))
        name = f"doc{self._next()}"
        key = Key(self.bucket if kind == "object" else self.files, name if kind == "row" else f"{name}.txt")
        path = path or self._draw.choice(list(self._names.values())) if kind == "row" else key.external_id
        title = row["title"] if kind == "row" else name
        self.texts[key] = Text(path, title, self._body(row["text"][:CHARACTERS], about), about, key)

    def add_field(self, documents: int) -> None:
        """Documents with words that no other has, except for whom they are about."""
        syllables = ["".join(pair) for pair in zip("bdfgklmnprst", "aeiouaeiouae", strict=True)]
        words = ["".join(self._draw.choices(syllables, k=4)) for _ in range(FIELD_WORDS)]
        for _ in range(documents):
            self.add(". ".join(" ".join(self._draw.choices(words, k=9)).capitalize() for _ in range(3)))

    def change(self) -> None:
        """Another text under the same name, about the same."""
        key = self._choose()
        text = self.texts[key]
        rest = text.body.split(". ", 1)[1].replace(text.mark, "")
        self.texts[key] = replace(text, body=self._body(f"Revised. {rest}"[:CHARACTERS], text.about))

    def copy(self) -> None:
        """The same text under another name."""
        times = Counter(text.body for text in self.texts.values())
        key = self._draw.choice([key for key, text in self.texts.items() if text.is_row and times[text.body] == 1])
        other = Key(key.source, f"doc{self._next()}")
        self.texts[other] = replace(self.texts[key], origin=other)

    def remove(self) -> Key:
        """A document is gone from its source."""
        key = self._choose()
        del self.texts[key]
        return key

    def move(self) -> None:
        """A file with rows gets another name, a row another file, a text file another name or source."""
        kind = self._draw.choice(("table", "row", "file", "source"))
        if kind == "table":
            first = self._draw.choice(TABLES)
            old, new = self._names[first], f"t{self._next()}.jsonl"
            self._names[first] = new
            self.texts = {key: replace(text, path=new) if text.path == old else text
                          for key, text in self.texts.items()}  # fmt: skip
            return
        key = self._choose(rows=kind == "row")
        text = self.texts[key]
        if kind == "row":
            self.texts[key] = replace(text, path=self._draw.choice(list(self._names.values())))
            return
        del self.texts[key]
        name = f"sub/doc{self._next()}.txt" if kind == "file" else key.external_id
        other = {self.files: self.bucket, self.bucket: self.files}[key.source] if kind == "source" else key.source
        self.texts[Key(other, name)] = replace(text, path=name, title=Path(name).stem)

    def write(self) -> None:
        """Bring folder and bucket to what the documents say."""
        wanted: dict[str, str] = {}
        for key, text in self.texts.items():
            if text.is_row:
                row = json.dumps({"id": key.external_id, "title": text.title, "text": text.body})
                wanted[text.path] = wanted.get(text.path, "") + row + "\n"
            elif key.source == self.files:
                wanted[text.path] = text.body
        for path in [path for path in self.folder.rglob("*") if path.is_file()]:
            if str(path.relative_to(self.folder)) not in wanted:
                path.unlink()
        for name, content in wanted.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text() != content:
                path.write_text(content)
        objects = {f"{PREFIX}/{text.path}": text.body for key, text in self.texts.items() if key.source == self.bucket}
        listed = self._client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        for name in {item["Key"] for item in listed} - objects.keys():
            self._client.delete_object(Bucket=BUCKET, Key=name)
        for name, content in objects.items():
            self._client.put_object(Bucket=BUCKET, Key=name, Body=content.encode())

    def write_broken(self) -> None:
        """As ``write``, with files beside the others that cannot be read, and bad rows around a good one."""
        self.add(kind="row", path="partly.jsonl")
        self.write()
        (self.folder / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing else")
        (self.folder / "broken.docx").write_bytes(self._draw.randbytes(300))
        partly = self.folder / "partly.jsonl"
        partly.write_text('{"id": "x", "te\n' + partly.read_text() + '{"text": ""}\n')

    def put_away(self, what: str) -> Path:
        """Take the folder away, or all its files; ``put_back`` with the result."""
        aside = self.folder.with_name(f"aside{self._next()}")
        shutil.move(self.folder, aside)
        if what == "files":
            self.folder.mkdir()
        return aside

    def put_back(self, aside: Path) -> None:
        """Undo ``put_away``."""
        if self.folder.exists():
            self.folder.rmdir()
        shutil.move(aside, self.folder)

    def taken_in(self) -> None:
        """An ingest has stored what is there: texts keep the id under which they were stored first."""
        bodies = Counter(text.body for text in self.texts.values())
        gone = {text.body: text.origin for key, text in self.stored.items() if key not in self.texts}
        for key, text in self.texts.items():
            origin = self.stored[key].origin if key in self.stored else key
            if key not in self.stored and bodies[text.body] == 1:
                origin = gone.get(text.body, key)
            self.texts[key] = replace(text, origin=origin)
        before, now = ({text.origin: text.mark for text in texts.values()} for texts in (self.stored, self.texts))
        self.changed |= {mark for origin, mark in before.items() if now.get(origin) != mark}
        if before.keys() - now.keys():
            self.changed.clear()
        self.stored = dict(self.texts)

    def deleted(self, key: Key) -> None:
        """A document was deleted in the store."""
        del self.stored[key]
        self.changed.clear()

    def id_of(self, key: Key) -> int:
        """The id that a stored document has."""
        return document_id(*self.stored[key].origin)

    def _body(self, text: str, about: tuple[str, str]) -> str:
        self._numbers += 1
        mark = "qzx" + "".join(self._draw.choices("abcdefghijklmnopqrstuvwxyz", k=4)) + "q"
        animal, tool = about
        text = " ".join(text.split()).strip(" .")
        return f"Note {mark} of the {animal} crew. {text}. The {animal} crew keeps its {tool} here."

    def _choose(self, *, rows: bool | None = None) -> Key:
        return self._draw.choice([key for key, text in self.texts.items() if rows in (None, text.is_row)])

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers
