"""Reference documentation of installed Python packages as a source: real text with a real hierarchy, no download.

Files are parsed with ``ast`` and never imported: importing a package runs it, and some need a GPU or a display. So
documentation that a package attaches at run time (NumPy's ufuncs) or writes in C is not found.
"""

import json
from collections.abc import Iterator

from heal_tasks.core.errors import SourceError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.docstrings import documented_objects
from heal_tasks.sources.packages import find_modules

SUFFIX = ".jsonl"


class PyDocsSource:
    """The documented public classes, functions and methods of packages, one JSON Lines file per module.

    Args:
        spec: ``pydocs:PACKAGE,PACKAGE`` with top-level names of installed packages.

    Raises:
        SourceError: a package is not installed or has no Python source.
    """

    def __init__(self, spec: str) -> None:
        self.name = spec
        names = sorted({name.strip() for name in spec.removeprefix("pydocs:").split(",") if name.strip()})
        if not names:
            raise SourceError(f"source {spec!r} names no package; write pydocs:PACKAGE,PACKAGE")
        self._modules = {f"{module.path}{SUFFIX}": module for name in names for module in find_modules(name)}

    def list_files(self) -> Iterator[SourceFile]:
        """List the modules with documented public objects, sorted by path.

        Every module is parsed, about five seconds per thousand files. The fingerprint is the hash of the
        documentation, so a reinstalled package with the same text counts as unchanged.

        Yields:
            One SourceFile per module, with path ``package/module.py.jsonl``.
        """
        for path in sorted(self._modules):
            if data := self._render(path):
                yield SourceFile(path, sha256_hex(data)[:32], len(data))

    def read(self, file: SourceFile) -> bytes:
        """Render one listed module as JSON Lines in UTF-8, one object per line: id, title, text, metadata.

        Raises:
            SourceError: there is no such module.
        """
        if file.path not in self._modules:
            raise SourceError(f"{file.path} is not a module of {self.name}; list the source again")
        return self._render(file.path)

    def _render(self, path: str) -> bytes:
        return "".join(f"{json.dumps(item)}\n" for item in documented_objects(self._modules[path])).encode()
