"""Archives of XML parts, which office files and e-books are: bounded, without entities, and nothing outside is read."""

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError, XMLPullParser, fromstring

from heal_tasks.sources.extract import UnreadableError

MAX_PARTS = 10_000
MAX_UNPACKED_BYTES = 256 * 2**20
"""Of all parts that are read. A tree of XML takes up to ten times its bytes, and the process has 1 GiB."""

_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PIECE_BYTES = 2**18
_ENTITY = re.compile(rb"<!ENTITY|<\0!\0E\0N\0T|\0<\0!\0E\0N\0T")


@dataclass(frozen=True, slots=True)
class Relation:
    """A part that another part refers to, by its place in the archive."""

    kind: str  # the last part of its type: slide, comments, chart
    target: str


class Archive:
    """The parts of an archive. A part that is not there is empty; one that is broken refuses the file.

    Raises:
        UnreadableError: it is no archive, is encrypted, or unpacks to too much.
    """

    def __init__(self, data: bytes) -> None:
        if data.startswith(_OLD_OFFICE):
            raise UnreadableError(
                "the file is encrypted, or in the format before 2007; save it again, without password"
            )
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise UnreadableError(f"the file is no complete archive ({error}); save it again") from error
        if len(self._zip.filelist) > MAX_PARTS:
            raise UnreadableError(
                f"the archive has {len(self._zip.filelist)} parts, at most {MAX_PARTS} are read; split it"
            )
        self._left = MAX_UNPACKED_BYTES
        self.names = {info.filename.lstrip("/"): info for info in self._zip.filelist}
        self._by_lower = {name.lower(): info for name, info in self.names.items()}

    def __contains__(self, name: str) -> bool:
        """True if there is a part of that name, in any case."""
        return name.lower() in self._by_lower

    def pieces(self, name: str) -> Iterator[bytes]:
        """A part in pieces; none if it is not there."""
        info = self._by_lower.get(name.lower())
        if info is None:
            return
        if info.flag_bits & 1:
            raise UnreadableError("the file is encrypted; save it without a password")
        try:
            with self._zip.open(info) as part:
                while piece := part.read(_PIECE_BYTES):
                    self._left -= len(piece)
                    if self._left < 0:
                        most = MAX_UNPACKED_BYTES // 2**20
                        raise UnreadableError(f"the file unpacks to more than {most} MiB; split it")
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
            raise UnreadableError(f"{name} in the file is broken ({error}); save it again") from error

    def read(self, name: str) -> bytes:
        """A part; empty if it is not there."""
        return b"".join(self.pieces(name))

    def tree(self, name: str) -> Element | None:
        """The XML of a part; None if it is not there."""
        data = self.read(name)
        return parse_xml(name, data) if data.strip() else None

    def elements(self, name: str, *tags: str) -> Iterator[Element]:
        """The elements of a part with one of these local names, one at a time: nothing else of it stays in memory."""
        parser: XMLPullParser[Element] = XMLPullParser(("start", "end"))
        parents: list[Element] = []
        wanted = 0
        first = True
        try:
            for piece in self.pieces(name):
                if first:
                    refuse_entities(name, piece)
                    first = False
                parser.feed(piece)
                for event, element in _events(parser):
                    is_wanted = local(element) in tags
                    if event == "start":
                        parents.append(element)
                        wanted += is_wanted
                        continue
                    parents.pop()
                    if is_wanted:
                        wanted -= 1
                        yield element
                    if not wanted and parents:
                        parents[-1].remove(element)
        except ParseError as error:
            raise UnreadableError(f"{name} in the file is no XML ({error}); save it again") from error

    def relations(self, name: str) -> dict[str, Relation]:
        """The parts that a part refers to, by id; addresses outside the file are left out."""
        folder, base = posixpath.split(name)
        root = self.tree(posixpath.join(folder, "_rels", f"{base}.rels"))
        found = {}
        for element in [] if root is None else root:
            get = element.attrib.get
            if get("TargetMode") != "External" and (target := get("Target")):
                place = posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")
                found[get("Id", "")] = Relation(get("Type", "").rpartition("/")[2], place)
        return found

    def related(self, name: str, kind: str) -> list[str]:
        """The places of the parts of one kind that a part refers to, in order."""
        return [relation.target for relation in self.relations(name).values() if relation.kind == kind]

    def main_part(self, default: str) -> str:
        """The document of an office file."""
        return next((name for name in self.related("", "officeDocument")), default)


def parse_xml(name: str, data: bytes) -> Element:
    """Parse XML that declares no entities; a few of them can stand for gigabytes.

    Raises:
        UnreadableError: it does, or is no XML.
    """
    refuse_entities(name, data[:_PIECE_BYTES])
    try:
        return fromstring(data)  # noqa: S314, entities are refused above, and expat bounds them
    except (ParseError, ValueError, LookupError) as error:
        raise UnreadableError(f"{name} in the file is no XML ({error}); save it again") from error


def refuse_entities(name: str, data: bytes) -> None:
    """Raise UnreadableError if the beginning of some XML declares an entity."""
    if _ENTITY.search(data):
        raise UnreadableError(f"{name} in the file declares entities, which programs do not; save it again")


def _events(parser: "XMLPullParser[Element]") -> Iterator[tuple[str, Element]]:
    for event in parser.read_events():
        kind, element = event[0], event[-1]
        if isinstance(element, Element):
            yield str(kind), element


def local(element: Element) -> str:
    """The name of an element without its namespace: transitional and strict files differ in that alone."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Element, name: str, default: str = "") -> str:
    """An attribute by its name without namespace."""
    attributes = element.attrib
    if name in attributes:
        return attributes[name]
    return next((value for key, value in attributes.items() if key.endswith("}" + name)), default)


def relation_id(element: Element) -> str:
    """The id of the part that an element stands for: ``r:id``, which may have an ``id`` of its own beside it."""
    return next((value for key, value in element.attrib.items() if key.endswith("}id")), "")


def first(element: Element | None, *path: str) -> Element | None:
    """The first descendant along a path of local names."""
    for name in path:
        if element is None:
            return None
        element = next((child for child in element if local(child) == name), None)
    return element


def descendants(element: Element | None, *names: str) -> Iterator[Element]:
    """All descendants with one of these local names, in order; the element itself, too."""
    return (child for child in (() if element is None else element.iter()) if local(child) in names)


def properties(archive: Archive) -> dict[str, str]:
    """Title, author, created and modified from the properties of an office file, where they are set."""
    place = next(iter(archive.related("", "core-properties")), "docProps/core.xml")
    root = archive.tree(place)
    names = {"title": "title", "creator": "author", "created": "created", "modified": "modified", "subject": "subject",
             "keywords": "keywords"}  # fmt: skip
    found = {}
    for element in [] if root is None else root:
        if (name := names.get(local(element))) and (text := " ".join((element.text or "").split())):
            found[name] = text[:1000]
    return found
