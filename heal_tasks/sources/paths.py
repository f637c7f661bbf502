"""Which files of a source are taken at all: the same rule for folders and buckets.

A file of an unknown kind is listed on purpose, so that it ends in quarantine with a reason instead of
being missed without a word. Hidden files and files that another program is still writing are not.
"""

from pathlib import PurePosixPath

UNFINISHED_SUFFIXES = (".tmp", ".part")


def is_ignored(path: str) -> bool:
    """Whether a listing leaves a path out.

    Args:
        path: relative to the source, with forward slashes.

    Returns:
        True for a path with a component that starts with a dot, and for ``*.tmp`` and ``*.part``.
    """
    return path.lower().endswith(UNFINISHED_SUFFIXES) or any(part.startswith(".") for part in PurePosixPath(path).parts)
