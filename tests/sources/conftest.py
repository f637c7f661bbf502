"""Ingest of a folder's ``sources.toml``, run after run."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.steps.engine.road import load_step

Run = Callable[[], dict[str, float]]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    """Ingest and return the counts."""
    numbers = itertools.count()

    def counts() -> dict[str, float]:
        settings = load_settings(var_dir=tmp_path / "var", database_url=database_url)
        return dict(load_step("ingest").run(settings, Manifest(run_id=str(next(numbers)))).counts)

    return counts
