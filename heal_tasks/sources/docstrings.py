"""Documented public objects of a Python file, found in its syntax tree."""

import ast
import warnings
from collections.abc import Iterator
from typing import Any

from heal_tasks.sources.packages import ModuleFile

MIN_DOCSTRING_CHARS = 200
MAX_TITLE_CHARS = 160

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def documented_objects(module: ModuleFile) -> Iterator[dict[str, Any]]:
    """Find the public classes, functions and methods with a docstring of at least 200 characters.

    Args:
        module: the file; one that Python cannot parse yields nothing.

    Yields:
        Dicts with ``id`` (dotted path), ``title`` (public path and signature, at most 160 characters), ``text``
        (the docstring) and ``metadata``: package, module, path (the components above the object), object
        (class, function or method). Where a name is defined twice, the first documented definition counts.
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
        kind = "class" if isinstance(node, ast.ClassDef) else "method" if parents else "function"
        yield {
            "id": name,
            "title": _shortened(public + _signature(node)),
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


def _shortened(title: str) -> str:
    return title if len(title) <= MAX_TITLE_CHARS else f"{title[: MAX_TITLE_CHARS - 1]}…"
