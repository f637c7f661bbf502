"""Reference documentation of installed Python packages as a source: real text with a real hierarchy, no download.

Files are parsed with ``ast`` and never imported: importing a package runs it, and some need a GPU or a display. So
documentation that a package attaches at run time (NumPy's ufuncs) or writes in C is not found.
"""

import json
from collections.abc import Iterator

from heal_tasks.core.errors import SourceError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.docstrings import documented_objects, find_modules


class PyDocsSource:
    """The documented public classes, functions and methods of ``pydocs:PACKAGE,PACKAGE``, top-level names.

    There is one JSON Lines file per module with such objects, ``package/module.py.jsonl``.
    """

    def __init__(self, spec: str) -> None:
        self.name = spec
        names = sorted({name.strip() for name in spec.removeprefix("pydocs:").split(",") if name.strip()})
        if not names:
            raise SourceError(f"source {spec!r} names no package; write pydocs:PACKAGE,PACKAGE")
        self._modules = {f"{module.path}.jsonl": module for name in names for module in find_modules(name)}

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``; every module is parsed, about five seconds per thousand files.

        The fingerprint is the hash of the documentation, so a reinstalled package with the same text is unchanged.
        """
        for path in sorted(self._modules):
            if data := self._render(path):
                yield SourceFile(path, sha256_hex(data)[:32], len(data))

    def read(self, file: SourceFile) -> bytes:
        """See ``Source``; a line has id, title, text and metadata of an object."""
        if file.path not in self._modules:
            raise SourceError(f"{file.path} is not a module of {self.name}; list the source again")
        return self._render(file.path)

    def _render(self, path: str) -> bytes:
        return "".join(f"{json.dumps(item)}\n" for item in documented_objects(self._modules[path])).encode()
