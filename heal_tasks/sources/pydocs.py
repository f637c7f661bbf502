"""Reference documentation of installed Python packages as a source: real text with a real hierarchy, no download.

Files are parsed with ``ast`` and never imported: importing a package runs it, and some need a GPU or a display. So
documentation that a package attaches at run time (NumPy's ufuncs) or writes in C is not found.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heal_tasks.core.errors import SourceError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.types import SourceFile

MIN_DOCSTRING_CHARS = 200
MAX_TITLE_CHARS = 160

# Tests, and other projects' code under a package's name.
_SKIPPED_NAMES = re.compile(r"tests?|testing|test_.*|conftest|_vendor")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """One Python file of a package."""

    package: str  # top-level name
    name: str  # dotted module name
    path: str  # relative to the folder of the package, for example sklearn/cluster/_kmeans.py
    file: Path  # its full path


def find_modules(package: str) -> list[ModuleFile]:
    """List the modules of an installed package by its top-level name, sorted by path; tests are left out.

    Raises:
        SourceError: the package is not installed, or is not written in Python.
    """
    # A dotted name would import its parent to find the child.
    if not package.isidentifier():
        raise SourceError(f"{package!r} is not a top-level package name; write for example pydocs:numpy,scipy")
    try:
        spec = find_spec(package)
    except ValueError:
        spec = None
    if spec is None:
        raise SourceError(f"package {package!r} is not installed here; install it or take it out of the source")
    found = []
    for root in map(Path, spec.submodule_search_locations or ()):
        for file in root.rglob("*.py"):
            path = file.relative_to(root)
            parts = path.with_suffix("").parts
            if all(part.isidentifier() and not _SKIPPED_NAMES.fullmatch(part) for part in parts):
                name = ".".join((package, *parts)).removesuffix(".__init__")
                found.append(ModuleFile(package, name, f"{package}/{path.as_posix()}", file))
    if spec.submodule_search_locations is None and spec.origin and spec.origin.endswith(".py"):
        found.append(ModuleFile(package, package, f"{package}.py", Path(spec.origin)))
    if not found:
        raise SourceError(f"package {package!r} has no Python source ({spec.origin}); take it out of the source")
    return sorted(found, key=lambda module: module.path)


def documented_objects(module: ModuleFile) -> Iterator[dict[str, Any]]:
    """Find the public classes, functions and methods with a docstring of at least 200 characters.

    A file that Python cannot parse has none. Of a name's definitions the first documented one counts.

    Yields:
        Dicts with ``id`` (dotted path), ``title`` (public path and signature, at most 160 characters), ``text``
        (the docstring) and ``metadata``: package, module, path (the components above the object), object
        (class, function or method).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings of the package
            tree = ast.parse(module.file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    seen: set[str] = set()
    for node, parents in _definitions(tree, ()):
        name = ".".join((module.name, *parents, node.name))
        text = ast.get_docstring(node) or ""
        if len(text) < MIN_DOCSTRING_CHARS or name in seen:
            continue
        seen.add(name)
        public = ".".join(part for part in name.split(".") if not part.startswith("_"))
        title = public + _signature(node)
        kind = "class" if isinstance(node, ast.ClassDef) else "method" if parents else "function"
        yield {
            "id": name,
            "title": title if len(title) <= MAX_TITLE_CHARS else f"{title[: MAX_TITLE_CHARS - 1]}…",
            "text": text,
            "metadata": {
                "package": module.package,
                "module": module.name,
                "path": [*module.name.split("."), *parents],
                "object": kind,
            },
        }


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

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``; a line has id, title, text and metadata of an object."""
        if file.path not in self._modules:
            raise SourceError(f"{file.path} is not a module of {self.name}; list the source again")
        return self._render(file.path)[: limit + 1]

    def _render(self, path: str) -> bytes:
        return "".join(f"{json.dumps(item)}\n" for item in documented_objects(self._modules[path])).encode()


def _definitions(node: ast.AST, parents: tuple[str, ...]) -> Iterator[tuple[ast.ClassDef | _Function, tuple[str, ...]]]:
    """Public definitions at module and class level, those under ``if`` and ``try`` included, in file order."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | _Function):
            if not child.name.startswith("_"):
                yield child, parents
                if isinstance(child, ast.ClassDef):
                    yield from _definitions(child, (*parents, child.name))
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(child, parents)


def _signature(node: ast.ClassDef | _Function) -> str:
    """Parameters without annotations; those of ``__init__``, without self, for a class; none for a property."""
    if isinstance(node, ast.ClassDef):
        init = next((item for item in node.body if isinstance(item, _Function) and item.name == "__init__"), None)
        if init is None:
            return ""
        arguments = init.args
        (arguments.posonlyargs or arguments.args)[:1] = []
    elif any(ast.unparse(decorator).endswith("property") for decorator in node.decorator_list):
        return ""
    else:
        arguments = node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    return f"({ast.unparse(arguments)})"
