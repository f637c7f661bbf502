"""Documented public objects of installed packages, found in the syntax trees of their files without importing them."""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heal_tasks.core.errors import SourceError

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
