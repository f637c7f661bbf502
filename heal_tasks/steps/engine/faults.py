"""Faults of disk, memory, file system and database server as errors with a cure, and whether trying again can help.

Libraries report a full disk in many ways: safetensors and torch raise errors of their own, numpy an OSError without a
number. They do so for memory, too. So the texts of an error and its causes are searched as well.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from heal_tasks.core.errors import HealError, RetryableError, StepError, StoreError
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import is_fault_of_values, is_lost

_FULL = re.compile(
    r"no space left on device|os error 28\b|disk quota exceeded|os error 122\b|failed writing file"
    r"|requested and \d+ written|inline_container.*unexpected pos",
    re.IGNORECASE,
)
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|unable to allocate|os error 12\b|bad_alloc|CUDA out of memory"
    r"|can't start new thread|out of memory for query result|^out of memory$",
    re.IGNORECASE,
)
_MORE_MEMORY = "run fewer tasks at a time, or give this machine or its container more memory"
_RETRYABLE: dict[int | None, tuple[str, str]] = {
    errno.EMFILE: ("too many files are open", "raise `ulimit -n`, or run fewer tasks at a time"),
    errno.ENFILE: ("too many files are open on this machine", "raise fs.file-max, or run fewer tasks at a time"),
    errno.EIO: ("the disk reports an input/output error", "look at the system's log for a failing disk or mount"),
    errno.ESTALE: ("the network file system has lost the file", "check the mount"),
}
_FINAL: dict[int | None, tuple[str, str]] = {
    errno.EROFS: ("the file system is read-only", "mount it writable, or name another folder"),
    errno.EACCES: ("permission is denied", "give this account the right, or name another folder"),
    errno.EPERM: ("permission is denied", "give this account the right, or name another folder"),
    errno.EFBIG: ("the file would be larger than is allowed", "raise `ulimit -f` or the limit of the file system"),
    errno.ENAMETOOLONG: ("the path is too long", "name a folder with a shorter path"),
    errno.ENOTDIR: ("a part of the path is no folder", "remove the file that is in its place"),
}
_FOLDERS = "the folders are HEAL_VAR_DIR and HEAL_ARTIFACTS_URI"
_SERVER: dict[str | None, str] = {
    "23503": "a text or question that the step had read was deleted meanwhile; wait for the end of the deletion",
    "25006": "the database takes no writes, as a standby does; wait for its failover, or name the primary in "
    "HEAL_DATABASE_URL",
    "53100": "the disk of the database server is full; free space there",
    "53200": "the database server has no memory left; lower HEAL_INDEX_MEMORY_MB, or give it more",
    "53300": "the database server takes no more connections; raise its max_connections, or run fewer tasks at a time",
    "53400": "the database server has reached a limit of its configuration; its log says which",
    "58030": "the database server reports an input/output error; look at its log for a failing disk",
}


@contextmanager
def named_faults(where: str, settings: Settings | None = None) -> Iterator[None]:
    """Raise faults of disk, file system and server in the block as errors with a cure."""
    try:
        yield
    except Exception as error:
        if named := named_fault(error, where, settings):
            raise named from error
        raise


def named_fault(error: Exception, where: str, settings: Settings | None = None) -> HealError | None:
    """The error with a cure for a fault, ``where`` it occurred at its beginning; None if it is no such fault."""
    if isinstance(error, RetryableError):
        return None
    if full := next((item for item in _chain(error, contexts=True) if _is_full(item)), None):
        return RetryableError(f"{where}: the disk is full ({_short(full)}); {_free(full, settings)}")
    chain = list(_chain(error, contexts=False))
    # An error of ours that was raised because of it has a cure of its own.
    for item in chain[:1] if isinstance(error, HealError) else chain:
        if _is_without_memory(item):
            return RetryableError(
                f"{where}: there is no memory left ({_short(item)}); {_MORE_MEMORY}, then run it again"
            )
    if isinstance(error, HealError):
        return None
    for item in chain:
        if isinstance(item, psycopg.OperationalError) or (isinstance(item, psycopg.Error) and item.sqlstate in _SERVER):
            return _of_server(item, where)
        if isinstance(item, psycopg.errors.InsufficientPrivilege):
            return StepError(
                f"{where}: the database user may not do this ({_short(item)}); GRANT heal_pipeline TO it, or name "
                "another user in HEAL_DATABASE_URL"
            )
    for item in chain:
        number = item.errno if isinstance(item, OSError) else None
        if number in _RETRYABLE:
            what, cure = _RETRYABLE[number]
            return RetryableError(f"{where}: {what} ({_short(item)}); {cure}, then run it again")
        if number in _FINAL:
            what, cure = _FINAL[number]
            return StepError(f"{where}: {what} ({_short(item)}); {cure} ({_FOLDERS})")
    return None


def _chain(error: BaseException | None, *, contexts: bool) -> Iterator[BaseException]:
    """An error and its causes; with ``contexts`` also those that were being handled when it was raised."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (error.__context__ if contexts and not error.__suppress_context__ else None)


def _is_full(error: BaseException) -> bool:
    if isinstance(error, psycopg.Error):  # the server's disk is another one
        return False
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or bool(
        _FULL.search(str(error))
    )


def _is_without_memory(error: BaseException) -> bool:
    if isinstance(error, psycopg.Error) and error.sqlstate:  # the server's memory is another one
        return False
    no_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return no_memory or bool(_NO_MEMORY.search(str(error)))


def _short(error: BaseException) -> str:
    """The first line of an error, with its type."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}".removesuffix(": ")


def _free(error: BaseException, settings: Settings | None) -> str:
    """The free space where the file was, or of all folders that a step writes to, and the cure."""
    named = getattr(error, "filename", None)
    folders = {Path(os.fsdecode(named)).parent} if isinstance(named, str | bytes) else set[Path]()
    if settings and not folders:
        folders = {settings.var_dir, Path(tempfile.gettempdir())}
        if not settings.artifacts_uri.startswith("s3://"):
            folders.add(Path(settings.artifacts_uri))
    left = list[tuple[int, Path]]()
    for folder in folders:
        with suppress(OSError):
            there = next(item for item in (folder, *folder.parents) if item.is_dir())
            left.append((shutil.disk_usage(there).free, folder))
    parts = [f"{size:,} bytes are free in {folder}" for size, folder in sorted(left)]
    return f"{', '.join([*parts, 'free space'])} or move HEAL_VAR_DIR and HEAL_ARTIFACTS_URI, then run it again"


def _of_server(error: psycopg.Error, where: str) -> HealError | None:
    state = error.sqlstate or ""
    if state in _SERVER:
        return RetryableError(f"{where}: {_SERVER[state]}, then run it again ({_short(error)})")
    if is_lost(error):
        return RetryableError(f"{where}: lost the database ({_short(error)}); run it again")
    if is_fault_of_values(error):
        return StoreError(
            f"{where}: the database refused a value ({_short(error)}); look at the documents and questions that this "
            "run brought"
        )
    # Conflicts of transactions, resources, locks, an operator's or a timeout's cancellation.
    if state.startswith(("40", "53", "55", "57", "58")):
        return RetryableError(f"{where}: the database server refused ({_short(error)}); run it again")
    return StepError(f"{where}: the database server refused ({_short(error)}); its log has the statement")
