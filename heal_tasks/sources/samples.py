"""Demo corpus: a sample of the reference documentation of installed packages.

A sample is a prefix of one fixed order of all documents, so a later sample can continue after an earlier one. Only as
many files are parsed as the prefix needs: torch alone has more than two thousand.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from heal_tasks.core.batches import batched
from heal_tasks.core.ids import stable_id
from heal_tasks.sources.pydocs import ModuleFile, documented_objects, find_modules

# Documents of this many files are mixed before any is taken, so that a small sample is not one module.
FILES_PER_BATCH = 48

# The cost of embedding grows with the length; 2,000 documents of this length take minutes on two cores.
_MAX_CHARS = 1000


def sample(packages: Sequence[str], documents: int, seed: int, offset: int = 0) -> list[dict[str, Any]]:
    """Take documents from packages, each package in proportion to the square root of its size.

    Args:
        packages: top-level names of installed packages.
        documents: number of documents; fewer are returned where the packages have no more.
        seed: of the order.
        offset: number of documents to skip: ``sample(p, 20, s, 1500)`` shares none with ``sample(p, 1500, s)``.

    Returns:
        Dicts as in a JSON Lines file (id, title, text, metadata).

    Raises:
        SourceError: a package is not installed.
    """
    streams = [_stream(package, seed) for package in sorted(set(packages))]
    ordered = heapq.merge(*streams, key=lambda entry: entry[:2])
    return [item for _, _, item in islice(ordered, offset, offset + documents)]


def _stream(package: str, seed: int) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """Documents of a package, each with its position in the common order."""
    modules = find_modules(package)
    # Bytes of source stand in for the number of documents, which only parsing every file would tell.
    weight = math.sqrt(sum(module.file.stat().st_size for module in modules))
    modules.sort(key=lambda module: stable_id(seed, module.path))
    for position, item in enumerate(_mixed(modules, seed)):
        # Document j comes at (j + 1/2) / weight: Sainte-Laguë's divisors, so a longer sample only adds documents.
        yield (position + 0.5) / weight, package, item


def _mixed(modules: list[ModuleFile], seed: int) -> Iterator[dict[str, Any]]:
    """Documents in the order of the seed, one batch of files after another; equal texts (async twins) once."""
    texts: set[str] = set()
    for batch in batched(modules, FILES_PER_BATCH):
        found = [item for module in batch for item in documented_objects(module)]
        for item in sorted(found, key=lambda item: stable_id(seed, item["id"])):
            if len(item["text"]) <= _MAX_CHARS and item["text"] not in texts:
                texts.add(item["text"])
                yield item
