"""Program of the parser process: reads files from its input, and writes their texts to its output.

A request is a line of JSON (kind, bytes, max_chars, seconds) and the bytes of a file; a reply is eight bytes with its
length, and JSON. The process ends when its input does, so it outlives the one that started it by one file at most.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from heal_tasks.sources.extract import UnreadableError

MAX_MEMORY_BYTES = 2**30
OUT_OF_MEMORY = "memory"
_OPEN_FILES = 32


def main() -> None:
    """Serve requests until the input ends."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries that print must not write into replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    sys.dont_write_bytecode = True
    _limit()
    _reply(replies, {"ready": True})
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        signal.alarm(request["seconds"])  # ends the process if the parent, which would have done it, is gone
        _reply(replies, _answer(request["kind"], data, request["max_chars"]))
        signal.alarm(0)


def _answer(kind: str, data: bytes, max_chars: int) -> dict[str, Any]:
    from heal_tasks.sources.formats.readers import reader
    from heal_tasks.sources.records import too_long, undecodable

    try:
        parse = reader(kind)
    except ImportError as error:
        return {"missing": str(error)}
    try:
        found = parse(data, max_chars)
    except UnreadableError as error:
        return {"refused": str(error)}
    except UnicodeDecodeError as error:
        return {"refused": undecodable(error)}
    except MemoryError:
        return {"refused": OUT_OF_MEMORY}
    except Exception as error:  # parsers of broken files raise anything
        return {"refused": f"the file cannot be read ({type(error).__name__}: {error}); save it again"}
    if len(found.body) > max_chars:
        return {"refused": too_long(len(found.body), max_chars)}
    return {"title": found.title[:max_chars], "body": found.body, "metadata": found.metadata}


def _reply(replies: BinaryIO, value: dict[str, Any]) -> None:
    content = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    replies.write(len(content).to_bytes(8, "big") + content)
    replies.flush()


def _limit() -> None:
    """Bound memory and open files; no files are written, no processes started, no core is dumped."""
    limits = {
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    memory = Path("/proc/self/statm")
    if memory.exists():  # elsewhere than on Linux the time is the only bound
        start = int(memory.read_text().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = start + MAX_MEMORY_BYTES
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main()
