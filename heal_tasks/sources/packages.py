"""Python files of installed packages, found without importing them."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from heal_tasks.core.errors import SourceError

# Tests, and other projects' code under a package's name.
SKIPPED_NAMES = frozenset({"tests", "test", "testing", "conftest", "_vendor"})


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """One Python file of a package."""

    package: str  # top-level name
    name: str  # dotted module name
    path: str  # relative to the folder of the package, for example sklearn/cluster/_kmeans.py
    file: Path  # its full path


def find_modules(package: str) -> list[ModuleFile]:
    """List the modules of an installed package, tests left out.

    Args:
        package: top-level name, for example ``sklearn``.

    Returns:
        At least one module, sorted by path.

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
    if spec.submodule_search_locations is not None:
        found = [
            _module(package, file, root)
            for root in map(Path, spec.submodule_search_locations)
            for file in root.rglob("*.py")
            if _is_documentation(file.relative_to(root))
        ]
    elif spec.origin is not None and spec.origin.endswith(".py"):
        found = [ModuleFile(package, package, f"{package}.py", Path(spec.origin))]
    else:
        found = []
    if not found:
        raise SourceError(f"package {package!r} has no Python source ({spec.origin}); take it out of the source")
    return sorted(found, key=lambda module: module.path)


def _module(package: str, file: Path, root: Path) -> ModuleFile:
    relative = file.relative_to(root)
    parts = [package, *relative.with_suffix("").parts]
    if parts[-1] == "__init__":
        parts.pop()
    return ModuleFile(package, ".".join(parts), f"{package}/{relative.as_posix()}", file)


def _is_documentation(relative: Path) -> bool:
    parts = relative.with_suffix("").parts
    return all(part.isidentifier() and part not in SKIPPED_NAMES and not part.startswith("test_") for part in parts)
