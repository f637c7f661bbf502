"""One process at a time on this machine for steps whose work is shared between runs, and so is in the same folder."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from heal_tasks.core.files import private_folder

_POLL_S = 1.0


@contextmanager
def only_process(folder: Path, name: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock of the operating system; where another process has it, say so with ``tell`` and wait.

    The lock ends with its process. The files stay: removing one would give two processes a lock of the same name.
    """
    private_folder(folder)
    with (folder / f"{name}.lock").open("a") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    tell(f"waiting until another process on this machine has ended the step {name}")
                told = True
                time.sleep(_POLL_S)
        yield
