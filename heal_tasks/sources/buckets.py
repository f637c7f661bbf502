"""Objects of buckets and containers, whichever service they are in, as files of a folder."""

from heal_tasks.core.ids import natural_key
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.files import is_ignored


def split_location(location: str) -> tuple[str, str]:
    """The bucket of ``BUCKET/PREFIX`` and the start of its keys, a whole folder: ``docs`` is not ``docs-old``."""
    bucket, _, prefix = location.partition("/")
    return bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def listed(key: str, prefix: str, version: str, size_bytes: int) -> SourceFile | None:
    """An object below a prefix as a file; None for a marker of a folder, and for a hidden or unfinished file."""
    real = key.removeprefix(prefix)
    if not real or real.endswith("/") or is_ignored(real):
        return None
    path = natural_key(real)
    return SourceFile(path, version, size_bytes, real if real != path else "")
