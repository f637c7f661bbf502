"""Installed versions are pinned: direct requirements, and their own requirements in constraints.txt."""

import tomllib
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# Required by some builds of torch only.
OF_A_BUILD = ("nvidia-", "cuda-", "triton")


def listed(*files: str) -> dict[str, Requirement]:
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    return {canonicalize_name(item.name): item for item in found}


def required(direct: dict[str, Requirement]) -> dict[str, str]:
    """Versions of all packages that are installed because of these requirements."""
    versions: dict[str, str] = {}
    waiting = list(direct.values())
    followed = set[tuple[str, frozenset[str]]]()
    while waiting:
        item = waiting.pop()
        name, extras = canonicalize_name(item.name), frozenset(item.extras)
        if (name, extras) in followed:
            continue
        followed.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        versions[name] = found.version
        for line in found.requires or []:
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append(further)
    return versions


def test_everything_is_pinned_once_and_installed_as_pinned() -> None:
    direct, indirect = (
        listed(
            "requirements.txt",
            "requirements-dev.txt",
            "requirements-models.txt",
            "requirements-scale.txt",
            "requirements-cloud.txt",
        ),
        listed("constraints.txt"),
    )
    assert not direct.keys() & indirect.keys()
    pins = direct | indirect
    installed = {name: version for name, version in required(direct).items() if not name.startswith(OF_A_BUILD)}
    unpinned = [f"{name}=={version}" for name, version in installed.items() if name not in pins]
    assert not unpinned, "add these to constraints.txt"
    assert all(pins[name].specifier.contains(version.partition("+")[0]) for name, version in installed.items())
    assert len(indirect) > 100


def test_the_package_has_every_file_of_its_folders() -> None:
    """Files beside the code, and folders of code, that a wheel would leave out."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    for path in (ROOT / "heal_tasks").rglob("*.*"):
        if "__pycache__" in path.parts or path.is_dir():
            continue
        package = path.parent if path.suffix == ".py" or path.match("*.jinja") else path.parent.parent
        assert (package / "__init__.py").exists(), path
        assert path.suffix == ".py" or any(fnmatch(str(path.relative_to(package)), name) for name in patterns), path
