"""The plugin's pages in an application, without a login and with one."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from heal_tasks.core.settings import Settings


@pytest.fixture(scope="module")
def plugin(plugins: None) -> ModuleType:
    import heal_reports

    return heal_reports


def client(plugin: ModuleType) -> Any:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    outer = FastAPI()
    for entry in plugin.HealReports.fastapi_apps:
        outer.mount(entry["url_prefix"], entry["app"])
    return TestClient(outer)


@pytest.fixture
def anonymous(plugin: ModuleType) -> Any:
    return client(plugin)


@pytest.fixture
def viewer(settings: Settings, monkeypatch: pytest.MonkeyPatch, airflow_user: Callable[[str | None], None]) -> None:
    """The settings of the store, and requests by a user who may read."""
    monkeypatch.setenv("HEAL_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
    airflow_user("viewer")


@pytest.fixture
def logged_in(plugin: ModuleType, viewer: None) -> Any:
    return client(plugin)
