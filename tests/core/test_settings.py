"""Settings: the sources of values, and the errors of wrong ones."""

import re
from pathlib import Path

import pytest

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.redaction import redacted
from heal_tasks.core.settings import GROUPS, Settings, load_settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("HEAL_") or name == "OPENAI_API_KEY"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_follow_the_state_folder(tmp_path: Path) -> None:
    settings = load_settings(var_dir=tmp_path / "state")
    assert settings.sources == (f"file:{tmp_path}/state/inbox",)
    assert settings.artifacts_uri == f"{tmp_path}/state/artifacts"
    assert not settings.llm_configured


def test_environment_wins_over_dotenv_and_dotenv_over_local_env(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "local.env").write_text("HEAL_SEED=1\nHEAL_TOPIC_DEPTH=1\nHEAL_TOPIC_MAX_K=4\n")
    (tmp_path / ".env").write_text("HEAL_SEED=2\nHEAL_TOPIC_DEPTH=2\n")
    monkeypatch.setenv("HEAL_SEED", "3")
    settings = load_settings()
    assert (settings.seed, settings.topic_depth, settings.topic_max_k) == (3, 2, 4)


def test_dotenv_says_where_local_env_is_and_which_corpus_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "local.env").write_text("HEAL_DATABASE_URL=postgresql://h/state\n")
    (tmp_path / ".env").write_text("heal_var_dir=state\n")
    assert load_settings().require_database_url() == "postgresql://h/state"
    monkeypatch.setenv("HEAL_VAR_DIR", "")  # hides the one in the file
    assert load_settings().database_url is None
    monkeypatch.delenv("HEAL_VAR_DIR")
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "legal.env").write_text("")
    (tmp_path / ".env").write_text("HEAL_VAR_DIR=state\nHEAL_CORPUS=legal\n")
    assert (load_settings().corpus, load_settings().require_database_url()) == ("legal", "postgresql://h/state_legal")
    assert load_settings(corpus="").require_database_url() == "postgresql://h/state"


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "corpora").mkdir()
    for file in (tmp_path / ".env", tmp_path / "corpora" / "legal.env"):
        file.write_bytes(b"HEAL_QUERY_PROMPT=fran\xe7ais\n")
        with pytest.raises(SettingsError, match=f"{re.escape(str(file))} is not UTF-8; save it as UTF-8"):
            load_settings(corpus="" if file.name == ".env" else "legal")
        file.unlink()


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "sources.toml").write_text("")
    settings = load_settings(var_dir="~/state", artifacts_uri="~/models", sources_file="~/sources.toml")
    assert settings.var_dir == tmp_path / "home" / "state"
    assert settings.artifacts_uri == f"{tmp_path}/home/models"
    assert settings.sources_file == tmp_path / "home" / "sources.toml"
    for uri in ("s3://bucket/prefix", "./models/"):
        assert load_settings(artifacts_uri=uri).artifacts_uri == uri
    for name in ("var_dir", "artifacts_uri", "sources_file"):
        with pytest.raises(SettingsError, match=r"folder '~nobody-here/x' cannot be resolved"):
            load_settings(**{name: "~nobody-here/x"})


def test_a_secret_of_the_container_is_read_and_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heal_tasks.core.settings.SECRETS_FOLDER", tmp_path)
    (tmp_path / "heal_serve_token").write_text("from-a-file\n")
    (tmp_path / "heal_llm_api_key").write_text("")
    settings = load_settings()
    assert settings.serve_token
    assert settings.serve_token.get_secret_value() == "from-a-file"
    assert not settings.llm_configured
    assert redacted("token from-a-file") == "token ***"
    monkeypatch.setenv("HEAL_SERVE_TOKEN", "from-the-environment")
    assert load_settings().serve_token != settings.serve_token


def test_sources_are_blank_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_SOURCES", "file:/a  s3://bucket/b pydocs:numpy,scipy")
    assert load_settings().sources == ("file:/a", "s3://bucket/b", "pydocs:numpy,scipy")


def test_an_empty_variable_is_unset_but_an_empty_schedule_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_LLM_BASE_URL", "")
    monkeypatch.setenv("HEAL_SEED", "")
    monkeypatch.setenv("HEAL_SCHEDULE", "")
    settings = load_settings()
    assert (settings.llm_base_url, settings.seed, settings.schedule) == (None, 13, "")


def test_an_openai_key_is_used_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    settings = load_settings()
    assert settings.llm_configured
    assert "very-secret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HEAL_SEED", "x", r"HEAL_SEED='x': .*valid integer"),
        ("HEAL_SOURCES", "ftp:x", r"unknown source 'ftp:x'; write file:FOLDER"),
        ("HEAL_SEED", str(2**32), r"HEAL_SEED='4294967296': .*less than"),
        ("HEAL_DRAIN_HOURS", "1e308", r"HEAL_DRAIN_HOURS='1e308': .*less than or equal to 87600"),
        ("HEAL_LLM_TIMEOUT_S", "86401", r"HEAL_LLM_TIMEOUT_S='86401': .*less than or equal to 86400"),
        ("HEAL_MAX_FILE_MB", "inf", r"HEAL_MAX_FILE_MB='inf': .*finite number"),
        ("HEAL_LLM_RUN_SPEND_LIMIT_USD", "nan", r"HEAL_LLM_RUN_SPEND_LIMIT_USD='nan': .*finite number"),
        ("HEAL_INDEX_MEMORY_MB", "9999999", r"HEAL_INDEX_MEMORY_MB='9999999': .*less than or equal to 2097151"),
        (
            "HEAL_ARTIFACTS_URI",
            "gs://bucket/heal",
            r"HEAL_ARTIFACTS_URI='gs://bucket/heal': is neither a folder nor s3://",
        ),
        ("HEAL_ARTIFACTS_URI", "file:///data", r"HEAL_ARTIFACTS_URI='file:///data': .*a folder without file:"),
        ("HEAL_ARTIFACTS_URI", "s3:///heal", r"HEAL_ARTIFACTS_URI='s3:///heal': is neither a folder nor s3://BUCKET"),
        # Secrets and what may have one in it are not shown.
        ("HEAL_LLM_API_KEY", "key-from-a-file\n", r"HEAL_LLM_API_KEY: has a blank, a line end"),
        ("HEAL_SERVE_TOKEN", "schlüssel", r"HEAL_SERVE_TOKEN: has a blank, a line end"),
        ("HEAL_LLM_BASE_URL", "http://host/v1?key=secret", r"HEAL_LLM_BASE_URL: is malformed"),
        ("HEAL_S3_ENDPOINT_URL", "http://host/#secret", r"HEAL_S3_ENDPOINT_URL: is malformed"),
        ("HEAL_MAX_DELETED_SHARE", "1.5", r"HEAL_MAX_DELETED_SHARE='1.5': .*less than or equal to 1"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings()
    assert "secret" not in str(caught.value)


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"there are no settings nudge_kind; docs/settings\.md lists them"):
        load_settings(nudge_kind="M")


def test_every_setting_is_described_in_one_sentence() -> None:
    for name, field in Settings.model_fields.items():
        text = field.description or ""
        assert text.endswith("."), name
        assert not re.search(r"[.!?] ", text), name
        assert 4 <= len(text.split()) <= 40, name
    assert len(Settings.model_fields) <= 98
    assert [name for group in GROUPS for name in group.model_fields] == list(Settings.model_fields)


def test_without_a_database_the_cure_is_named() -> None:
    with pytest.raises(SettingsError, match=r"HEAL_DATABASE_URL is not set.*make up"):
        load_settings().require_database_url()
