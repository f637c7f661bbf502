"""Documents from a folder and its sub-folders.

A file counts as unchanged while its size and modification time stay, so an unchanged folder costs one ``stat`` per
file. A folder that cannot be listed is an error and never an empty folder: its documents would count as deleted.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from heal_tasks.core.errors import SourceError
from heal_tasks.core.types import SourceFile


def is_ignored(path: str) -> bool:
    """True for paths that listings of folders and buckets leave out: hidden files, ``*.tmp`` and ``*.part``.

    Files of an unknown kind are listed on purpose: they go to quarantine with a reason instead of being skipped
    silently.
    """
    return path.lower().endswith((".tmp", ".part")) or any(part.startswith(".") for part in PurePosixPath(path).parts)


class FolderSource:
    """The regular files of ``file:FOLDER``; a relative folder is resolved from the working folder."""

    def __init__(self, spec: str) -> None:
        self.name = spec
        folder = spec.removeprefix("file:")
        if not folder:
            raise SourceError(f"source {spec!r} names no folder; write file:FOLDER")
        self._root = Path(folder).expanduser().resolve()
        if not self._root.is_dir():
            raise SourceError(f"source {spec!r}: {self._root} is not a folder; create it, mount it or correct the spec")

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``; links that lead out of the folder and links to folders are left out."""
        try:
            yield from self._walk(self._root, "")
        except OSError as error:
            raise SourceError(
                f"source {self.name!r}: {error.filename} cannot be listed ({error.strerror}); "
                "its documents would look deleted, so the listing stops; check that it is mounted and readable"
            ) from error

    def read(self, file: SourceFile) -> bytes:
        """See ``Source``; a file outside the folder is an error."""
        try:
            path = (self._root / file.path).resolve(strict=True)
            data = path.read_bytes() if path.is_relative_to(self._root) else None
        except OSError as error:
            raise SourceError(
                f"{file.path} cannot be read ({error.strerror}); check its rights, and that its name is UTF-8"
            ) from error
        if data is None:
            raise SourceError(f"{file.path} leads out of {self._root}; put the file itself there")
        return data

    def _walk(self, folder: Path, prefix: str) -> Iterator[SourceFile]:
        with os.scandir(folder) as scan:
            entries = list(scan)
        # A folder sorts as "name/": so the walk as a whole follows the order of the full paths.
        named = sorted((f"{entry.name}/" if _is_folder(entry) else entry.name, entry) for entry in entries)
        for name, entry in named:
            # A name that is not UTF-8 cannot be stored; it is shown escaped, and reading it says what to do.
            path = prefix + os.fsencode(name).decode("utf-8", "backslashreplace")
            if is_ignored(path):
                continue
            if _is_folder(entry):
                yield from self._walk(folder / entry.name, path)
            elif (stat := self._stat(entry)) is not None:
                yield SourceFile(path, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size)

    def _stat(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        """Size and time of a regular file; None for anything else, for a link out, and for a file just deleted."""
        try:
            if entry.is_symlink() and not Path(os.path.realpath(entry, strict=True)).is_relative_to(self._root):
                return None
            return entry.stat() if entry.is_file() else None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # deleted; links in a circle
                return None
            raise


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Links to folders are not followed: one that points upwards would never end.
    return entry.is_dir(follow_symlinks=False)
