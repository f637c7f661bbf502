"""Folders that other accounts of the machine may not read, files that do not belong in one, damaged files, hashes."""

import functools
import hashlib
import os
import time
from pathlib import Path
from zipfile import BadZipFile

DAMAGED = (AttributeError, EOFError, IndexError, KeyError, TypeError, ValueError, BadZipFile)
"""Errors of reading a JSON or npz file that this project wrote and something else changed."""
PRIVATE_UMASK = 0o077
"""Of the command line and of the processes that it starts: their files belong to their account alone."""

SETTLED_S = 1.0
"""A file can change twice within a tick of the clock: of one that has just changed its times say too little."""


def file_sha256(path: Path) -> str:
    """Hash of a file in hex, read once for each state of it: the 90 MB of the packaged model take 90 ms."""
    now = path.stat()
    state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    return _sha256(path, state if time.time() - now.st_ctime > SETTLED_S else (time.monotonic_ns(),))


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def first_stray(folder: Path, root: Path) -> tuple[Path, bool] | None:
    """The first path below a folder that is no file or folder of ``root``; None if there is none.

    The second value is True for a link that leads out of ``root``, False for a pipe, a device or the like.
    """
    real_root = os.path.realpath(root)
    for path in folder.rglob("*"):
        if not Path(os.path.realpath(path)).is_relative_to(real_root):
            return path, True
        if not path.is_file() and not path.is_dir():
            return path, False
    return None


def private_folder(path: Path) -> Path:
    """Make a folder of mode 700 unless it exists, in parents made by ``state_folder``; return it."""
    if not path.exists():
        state_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def state_folder(path: Path) -> Path:
    """Make a folder, and its parents, that others may not read unless it exists; return it.

    Made by root they may pass through it: the embedded server of root runs under another account.
    """
    if not path.exists():
        state_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            path.chmod(0o711)
    return path
