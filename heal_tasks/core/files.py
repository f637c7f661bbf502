"""Folders that other accounts of the machine may not read."""

import os
from pathlib import Path

PRIVATE_UMASK = 0o077
"""Of the command line and of the processes that it starts: their files belong to their account alone."""


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
