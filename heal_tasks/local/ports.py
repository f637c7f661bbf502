"""Free TCP ports on loopback."""

import contextlib
import socket
from collections.abc import Iterable


def first_free(candidates: Iterable[int]) -> int | None:
    """The first port on 127.0.0.1 that nobody listens on; 0 means any; None if all are taken."""
    for port in candidates:
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As servers do: a connection of a predecessor that lingers does not make the port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    return None
