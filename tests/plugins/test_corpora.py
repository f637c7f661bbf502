"""Two corpora in one deployment: DAGs, tasks and pages of each, and nothing of one in the other."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from heal_tasks.core.corpora import corpus_names, database_beside, in_corpus
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import connect, scalar
from heal_tasks.store.migrate import migrate_corpora

NAMES = ("lab", "legal")


def test_without_corpora_pages_name_none(plugin: ModuleType, logged_in: Any) -> None:
    """Before the deployment of the other tests has any."""
    assert corpus_names() == []
    assert "main corpus" not in logged_in.get("/heal/runs").text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of the deployment."""
    return tmp_path_factory.mktemp("deployment")


@pytest.fixture(scope="module")
def corpora(postgres: EmbeddedPostgres, module_database_url: str, folder: Path) -> Iterator[dict[str, str]]:
    """URLs of the databases of two corpora, beside that of the deployment."""
    url = module_database_url
    (folder / "corpora").mkdir()
    for name in NAMES:
        (folder / "corpora" / f"{name}.env").write_text(f"HEAL_SCHEDULE=\nHEAL_SOURCES=file:{folder / name}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HEAL_DATABASE_URL", url)
        assert [name for name, applied in migrate_corpora(url) if applied] == [*NAMES]
        assert [name for name, applied in migrate_corpora(url) if applied] == []
        yield {name: database_beside(url, name) for name in NAMES}
    with connect(postgres.url(), autocommit=True) as conn:
        for name in NAMES:
            conn.execute(f'DROP DATABASE "{database_beside(url, name).rpartition("/")[2]}" WITH (FORCE)')  # type: ignore[call-overload]


def write(folder: Path, *texts: str) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"id": text, "title": "", "text": f"The text about {text}."} for text in texts]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def ingested(corpora: dict[str, str], plugins: None, folder: Path) -> dict[str, str]:
    """Documents in each corpus, read by tasks of its DAG in runs of the same name."""
    import heal_airflow

    for number, name in enumerate(NAMES, 1):
        write(folder / name, *(f"{name} {item}" for item in range(number)))
        form = {key: param.value for key, param in heal_airflow.PARAMS.items()}
        dag = SimpleNamespace(dag_id=f"heal_realign__{name}", params=form)
        context = {"params": form, "run_id": "night", "dag": dag, "dag_run": SimpleNamespace(conf=None)}
        with pytest.MonkeyPatch.context() as patch, in_corpus(""):  # a task has a process, and so a context, of its own
            patch.setattr(heal_airflow, "get_current_context", lambda context=context: context)
            made = heal_airflow.run_step("route", heal_airflow.run_step("ingest"))
        assert made["refs"]["route"] == "realign"
    return corpora


def test_a_task_works_in_the_database_and_the_folders_of_its_corpus(
    ingested: dict[str, str], module_database_url: str, folder: Path
) -> None:
    count = "SELECT count(*) FROM heal.document"
    for url, documents in zip([module_database_url, *ingested.values()], (0, 1, 2), strict=True):
        with connect(url, autocommit=True) as conn:
            assert scalar(conn, count) == documents
    assert load_settings(corpus="lab").var_dir == folder / "var" / "corpora" / "lab"


def test_every_corpus_has_its_dags_and_a_wrong_one_has_none(
    corpora: dict[str, str], plugins: None, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import heal_airflow

    broken = folder / "corpora" / "broken.env"
    broken.write_text("HEAL_SED=1\n")
    made: list[dict[str, Any]] = []
    file = str(Path(__file__).parents[2] / "dags" / "heal_realign.py")
    heal_airflow.for_each_corpus(
        lambda settings: made.append(heal_airflow.dag_arguments(settings, file, "HEAL nightly"))
    )
    assert [(item["dag_id"], item["dag_display_name"]) for item in made] == [
        ("heal_realign", "HEAL nightly"),
        ("heal_realign__lab", "HEAL nightly: lab"),
        ("heal_realign__legal", "HEAL nightly: legal"),
    ]
    assert "corpus broken has no DAGs: corpora/broken.env sets HEAL_SED" in caplog.text
    broken.unlink()
    assert heal_airflow.active_asset("lab").uri == "heal://lab/generation/active"


@pytest.fixture
def pages(
    ingested: dict[str, str], plugin: ModuleType, airflow_database: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Ask for a page as somebody who may read the runs of some DAGs only."""
    from airflow.api_fastapi.app import init_auth_manager
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    manager = init_auth_manager()
    allowed: set[str] = set()
    monkeypatch.setattr(
        type(manager), "is_authorized_dag", lambda self, *, details=None, **_: details.id in allowed, raising=True
    )
    for name in ("", *NAMES):
        with in_corpus(name):
            overrides = plugin.build_app(name).dependency_overrides
        monkeypatch.setitem(overrides, get_user, lambda: SimpleNamespace(role="x"))
    outer = FastAPI()
    for entry in plugin.HealReports.fastapi_apps:
        outer.mount(entry["url_prefix"], entry["app"])

    def get(path: str, *dags: str) -> Any:
        allowed.clear()
        allowed.update(dags)
        return TestClient(outer).get(f"/heal/{path}", headers={"accept": "text/html"})

    return get


def test_each_corpus_has_pages_with_links_that_stay_in_it(pages: Callable[..., Any]) -> None:
    for path in ("c/legal/store", "c/legal/runs"):
        page = pages(path, "heal_realign__legal")
        assert page.status_code == 200, page.text
        assert 'href="../../../dags/heal_realign__legal' in page.text
        assert f'href="../../c/lab/{path.rpartition("/")[2]}"' in page.text
        assert 'href="runs"' in page.text
    assert "night" in page.text
    assert "2 documents" in pages("c/legal/store", "heal_realign__legal").text
    assert "1 document" in pages("c/lab/store", "heal_realign__lab").text
    assert "night" not in pages("runs", "heal_realign").text


def test_a_tab_of_a_corpus_leads_to_its_pages(pages: Callable[..., Any]) -> None:
    page = pages("report?dag_id=heal_realign__lab&run_id=night", "heal_realign__lab")
    assert (page.status_code, page.url.path) == (200, "/heal/c/lab/report")
    assert pages("c/lab/runs?dag_id=heal_realign__legal", "heal_realign__lab").status_code == 404
    assert pages("report?dag_id=heal_realign__none&run_id=night", "heal_realign").status_code == 404
    assert pages("c/none/runs", "heal_realign").status_code == 404


def test_the_right_to_one_corpus_is_none_to_another(pages: Callable[..., Any]) -> None:
    for path in ("c/lab/runs", "c/lab/store", "c/lab/search?q=text", "runs"):
        refused = pages(path, "heal_realign__legal")
        assert refused.status_code == 403
        assert "lab 0" not in refused.text
