"""The environment of Airflow's components: settings, secrets and addresses."""

import base64
import json
import stat
from pathlib import Path

import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.settings import load_settings
from heal_tasks.local.environment import Keys, airflow_settings, load_keys, setting_variables

KEYS = Keys(jwt="j" * 96, fernet="f", api_secret="a", ui_password="p")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEAL_VAR_DIR", "HEAL_DATABASE_URL", "HEAL_SOURCES", "OPENAI_API_KEY", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def build(var_dir: Path, **overrides: object) -> dict[str, str]:
    settings = load_settings(var_dir=var_dir, **overrides)
    return airflow_settings(settings, KEYS, 9999, "postgresql://u:p@h:1/airflow", "postgresql://u:p@h:1/heal", var_dir)


def test_children_read_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "sources": ("file:/a b", "pydocs:numpy"), "source_roots": ("file:/a b", "pydocs:"), "llm_api_key": "secret",
        "train_max_steps": 7, "objectives": ("topics", "paper"), "dry_run": True,
        "gate_epsilon": 0.25, "schedule": "5 5 * * *", "question_filters": (), "maintain_schedule": "",
    }  # fmt: skip
    settings = load_settings(var_dir=tmp_path, **given)
    for name, value in setting_variables(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings(var_dir=tmp_path) == settings


def test_a_blank_in_the_state_folder_keeps_the_default_source_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    var_dir = tmp_path / "my state"
    for name, value in build(var_dir).items():
        if name.startswith("HEAL_"):
            monkeypatch.setenv(name, value)
    assert load_settings().sources == (f"file:{var_dir / 'inbox'}",)


def test_listens_on_loopback_only_and_uses_psycopg_3(tmp_path: Path) -> None:
    values = build(tmp_path)
    assert values["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert values["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:9999"
    assert values["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:9999/execution/"
    assert values["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql+psycopg://u:p@h:1/airflow"
    assert values["HEAL_DATABASE_URL"] == "postgresql://u:p@h:1/heal"
    assert Path(values["PYTHONPATH"].split(":")[0], "heal_tasks").is_dir()


def test_threads_that_the_user_has_set_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "11")
    assert build(tmp_path)["OMP_NUM_THREADS"] == "11"


@pytest.mark.parametrize(("model", "offline"), [("all-MiniLM-L6-v2", "1"), ("some-org/some-model", None)])
def test_the_hub_is_switched_off_only_for_a_model_on_disk(tmp_path: Path, model: str, offline: str | None) -> None:
    assert build(tmp_path, model=model).get("HF_HUB_OFFLINE") == offline


def test_only_settings_that_tasks_see_change_the_hash(tmp_path: Path) -> None:
    plain = fingerprint(build(tmp_path))
    assert fingerprint(build(tmp_path, demo_documents=100, airflow_port=1234)) == plain
    assert fingerprint(build(tmp_path, train_max_steps=7)) != plain


def test_made_once_and_private(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    assert load_keys(tmp_path) == keys
    assert len(keys.jwt.encode()) >= 64
    assert len(base64.urlsafe_b64decode(keys.fernet)) == 32
    assert len(keys.ui_password) >= 12
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("secrets.json", "passwords.json")} == {0o600}
    assert json.loads((tmp_path / "passwords.json").read_text()) == {"admin": keys.ui_password}


def test_two_stacks_have_different_keys(tmp_path: Path) -> None:
    assert load_keys(tmp_path / "a") != load_keys(tmp_path / "b")


def test_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"jwt": "x"}')
    with pytest.raises(StepError, match=r"secrets\.json cannot be read as secrets .*delete it"):
        load_keys(tmp_path)
