"""Documents from a folder and its sub-folders.

A file counts as unchanged while its size and modification time stay, so an unchanged folder costs one ``stat`` per
file. A folder that cannot be listed is an error and never an empty folder: its documents would count as deleted.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from heal_tasks.core.errors import RetryableError, SourceError
from heal_tasks.core.ids import natural_key
from heal_tasks.core.specs import FILE, folder_of
from heal_tasks.core.types import SourceFile

_PIECE_BYTES = 2**18


def is_ignored(path: str) -> bool:
    """True for paths that listings leave out: hidden files, ``*.tmp``, ``*.part``, Office's locks (``~$a.docx``)."""
    if "/." in f"/{path}" and any(part.startswith(".") for part in PurePosixPath(path).parts):
        return True
    return path.lower().endswith((".tmp", ".part")) or path.rpartition("/")[2].startswith("~$")


def read_at_most(read: Callable[[int], bytes], limit: int) -> bytes:
    """Read to the end, but no more than ``limit`` bytes and one: what arrives counts, whatever was announced."""
    parts, missing = list[bytes](), limit + 1
    while missing > 0 and (part := read(min(missing, _PIECE_BYTES))):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


class FolderSource:
    """The regular files of ``file:FOLDER``; a relative folder is resolved from the working folder."""

    def __init__(self, spec: str) -> None:
        self.name = spec
        try:
            self._root = folder_of(spec.removeprefix(FILE))
        except ValueError as error:
            raise SourceError(f"source {spec!r}: {error}") from None
        if not self._root.is_dir():
            raise SourceError(f"source {spec!r}: {self._root} is not a folder; create it, mount it or correct the spec")

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``; links that lead out of the folder and links to folders are left out, with the reason."""
        try:
            yield from self._walk()
        except OSError as error:
            if error.errno == errno.ENOENT and self._root.is_dir():
                gone = f"source {self.name!r}: folder {error.filename} was removed or renamed during the listing"
                raise RetryableError(f"{gone}, of which nothing may be concluded; try again") from error
            raise SourceError(
                f"source {self.name!r}: {error.filename} cannot be listed ({error.strerror}); "
                "its documents would look deleted, so the listing stops; check that it is mounted and readable"
            ) from error

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``; a file outside the folder is an error."""
        try:
            path = (self._root / file.real_path).resolve(strict=True)
            data = _read_regular(path, limit) if path.is_relative_to(self._root) else None
        except OSError as error:
            raise SourceError(
                f"{file.path} cannot be read ({error.strerror}); check its rights, and the disk that it is on"
            ) from error
        if data is None:
            raise SourceError(f"{file.path} leads out of {self._root}; put the file itself there")
        return data

    def _walk(self) -> Iterator[SourceFile]:
        # With a list of what is left instead of recursion, the depth of folders is bounded by the system alone.
        left = self._entries("")
        while left:
            path, entry = left.pop()
            try:
                if path.endswith("/"):
                    left += self._entries(path)
                elif (file := self._file(path, entry)) is not None:
                    yield file
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                yield _left_out(path.rstrip("/"), "path too long for the system")

    def _entries(self, folder: str) -> list[tuple[str, os.DirEntry[str]]]:
        """Paths of a folder's entries, the last first; a folder's own ends with a slash, so it sorts like its files."""
        with os.scandir(self._root / folder) as scan:
            # Links to folders are not followed: one that points upwards would never end.
            named = [(f"{folder}{entry.name}{'/' * entry.is_dir(follow_symlinks=False)}", entry) for entry in scan]
        kept = [(path, entry) for path, entry in named if not is_ignored(entry.name)]
        # Of two spellings of one name the one in form NFC comes first.
        kept.sort(key=lambda item: ((name := normalize("NFC", item[0])), name != item[0]), reverse=True)
        return kept

    def _file(self, path: str, entry: os.DirEntry[str]) -> SourceFile | None:
        """A file with its size and time; None if it has just been deleted."""
        linked = entry.is_symlink()
        try:
            if linked and not Path(os.path.realpath(entry, strict=True)).is_relative_to(self._root):
                return _left_out(path, "link out of the folder")
            found = entry.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            return _left_out(path, "broken link") if linked else None
        if not stat.S_ISREG(found.st_mode):
            return _left_out(path, "link to a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file")
        shown = _shown(path)
        return SourceFile(
            shown, f"{found.st_size}-{found.st_mtime_ns}", found.st_size, real=path if path != shown else ""
        )


def _shown(path: str) -> str:
    """The path as it is stored; bytes of a name that are not UTF-8 are escaped."""
    return natural_key(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _left_out(path: str, reason: str) -> SourceFile:
    return SourceFile(_shown(path), "", 0, left_out=reason)


def _read_regular(path: Path, limit: int) -> bytes:
    # Without O_NONBLOCK, opening a pipe that has taken the file's place since the listing would wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return read_at_most(file.read, limit)
