"""Airflow's connections as settings: what they give, who wins, and what a wrong one is told."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.redaction import redacted

POSTGRES = "postgresql://us%40er:p%40ss%2Fword@db.example:5433/ve%20ctors?sslmode=require"
AWS = {
    "conn_type": "aws",
    "login": "THEKEY",
    "password": "the-secret-of-s3",
    "extra": {
        "endpoint_url": "http://127.0.0.1:9",
        "region_name": "eu-central-1",
        "aws_session_token": "the-session-token",
    },
}
LLM = {
    "conn_type": "openai",
    "host": "http://vllm:8000/v1",
    "password": "the-key-of-the-model",
    "extra": {"model": "qwen"},
}


@pytest.fixture
def plugin(plugins: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    import boto3
    import heal_connections

    monkeypatch.chdir(tmp_path)
    for name in ("HEAL_DATABASE_URL", "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    yield heal_connections
    boto3.DEFAULT_SESSION = None


def connect(monkeypatch: pytest.MonkeyPatch, **connections: Any) -> None:
    for conn_id, value in connections.items():
        text = value if isinstance(value, str) else json.dumps(value)
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", text)


def test_the_connections_become_settings(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    connect(monkeypatch, heal_postgres=POSTGRES, heal_s3=AWS, heal_llm=LLM)
    told: list[str] = []
    settings = plugin.connected_settings(told.append, artifacts_uri="s3://bucket/artifacts", dry_run=True)
    assert settings.require_database_url() == POSTGRES
    assert (settings.llm_url, settings.llm_key, settings.llm_model) == (
        "http://vllm:8000/v1", "the-key-of-the-model", "qwen",
    )  # fmt: skip
    assert (settings.artifacts_uri, settings.dry_run) == ("s3://bucket/artifacts", True)
    # The client is made as the steps make theirs.
    client = boto3.client("s3", endpoint_url=settings.s3_endpoint_url)
    keys = client._request_signer._credentials
    assert (keys.access_key, keys.secret_key, keys.token) == ("THEKEY", "the-secret-of-s3", "the-session-token")
    assert (client.meta.endpoint_url, client.meta.region_name) == ("http://127.0.0.1:9", "eu-central-1")
    assert told == [
        "Settings: the database from the connection heal_postgres; S3 from the connection heal_s3; the language model "
        "from the connection heal_llm"
    ]


def test_a_variable_wins_over_the_whole_connection(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    connect(monkeypatch, heal_postgres=POSTGRES, heal_s3=AWS, heal_llm=LLM)
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://own@host/own")
    monkeypatch.setenv("HEAL_LLM_BASE_URL", "http://own/v1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    told: list[str] = []
    settings = plugin.connected_settings(told.append, sources=("s3://bucket/in",), source_roots=("s3://bucket",))
    assert settings.require_database_url() == "postgresql://own@host/own"
    # The connection's key is not sent to another endpoint than its own.
    assert (settings.llm_url, settings.llm_key, settings.llm_model) == ("http://own/v1", None, "gpt-4o-mini")
    assert settings.s3_endpoint_url is None
    assert boto3.DEFAULT_SESSION is None
    assert told[0].count("wins over a connection") == 3


def test_s3_of_a_table_is_looked_up(plugin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources.toml").write_text("[team]\nkind = 's3'\nlocation = 'bucket/in'\n")
    connect(monkeypatch, heal_s3=AWS)
    told: list[str] = []
    plugin.connected_settings(told.append, sources_file=tmp_path / "sources.toml", parts=["s3"])
    assert told == ["Settings: S3 from the connection heal_s3"]


def test_without_connections_the_settings_are_those_of_before(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heal_tasks.core.settings import load_settings

    told: list[str] = []
    assert plugin.connected_settings(told.append, seed=5) == load_settings(seed=5)
    assert told == ["Settings: the database from no connection; S3 is not used; the language model from no connection"]
    monkeypatch.setenv("HEAL_LLM_MODEL", "own")
    connect(monkeypatch, heal_llm=LLM, aws_default="aws://", heal_postgres="postgres://u@h/d")
    settings = plugin.connected_settings(told.append, artifacts_uri="s3://bucket/artifacts")
    assert (settings.llm_model, settings.llm_url) == ("own", "http://vllm:8000/v1")
    assert "S3 from the connection aws_default" in told[1]
    assert settings.require_database_url() == "postgresql://u@h/d"


@pytest.mark.parametrize(
    ("conn_id", "value", "words"),
    [
        ("heal_postgres", "mysql://u:secretword@h/d", "is of type 'mysql'; make it one of type postgres or generic"),
        ("heal_postgres", "postgres://u:secretword@/d", "has no host; add it in Airflow"),
        ("heal_postgres", "postgres://h", "has no login and no schema; add it in Airflow"),
        ("heal_postgres", "postgres://u@h/d?iam=true", r"has an extra that is not read \(iam\); remove it, or take"),
        ("heal_postgres", '{"conn_type": "secretword', "AIRFLOW_CONN_HEAL_POSTGRES is set, and Airflow cannot read it"),
        ("heal_s3", "aws://key@", "has no password; add it in Airflow"),
        ("heal_s3", {**AWS, "extra": {"role_arn": "arn"}}, r"not read \(role_arn\); remove it, or take aws_sess"),
        ("heal_s3", {**AWS, "extra": {"endpoint_url": "http://u:secretword@"}}, "HEAL_S3_ENDPOINT_URL: is malformed"),
        ("heal_llm", {"conn_type": "openai"}, "has no host; add it in Airflow"),
        ("heal_llm", {"conn_type": "http", "host": "vllm", "port": 80}, "has a host that is no URL; write the end"),
    ],
)  # fmt: skip
def test_a_wrong_connection_is_refused_with_the_cure(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch, conn_id: str, value: Any, words: str
) -> None:
    connect(monkeypatch, **{"heal_postgres": "postgres://u@h/d", conn_id: value})
    with pytest.raises(SettingsError, match=words) as caught:
        plugin.connected_settings(artifacts_uri="s3://bucket/artifacts")
    assert "secretword" not in f"{caught.value}"


def test_the_endpoint_of_the_embedding_model_is_looked_up_where_the_model_is_behind_an_api(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = {"conn_type": "openai", "host": "http://vllm:8001/v1", "password": "the-key-to-embed"}
    connect(monkeypatch, heal_postgres=POSTGRES, heal_llm=LLM, heal_embed=embed)
    told: list[str] = []
    settings = plugin.connected_settings(told.append, model="openai:text-embedding-3-small")
    assert (settings.embed_url, settings.embed_key) == ("http://vllm:8001/v1", "the-key-to-embed")
    assert settings.llm_key == "the-key-of-the-model"
    assert told[0].endswith("the embedding model from the connection heal_embed")
    assert plugin.connected_settings().embed_base_url is None
    connect(monkeypatch, heal_embed=embed | {"extra": {"model": "x"}})
    with pytest.raises(SettingsError, match=r"not read \(model\); remove it, or take none"):
        plugin.connected_settings(model="openai:text-embedding-3-small")


def test_only_the_parts_that_are_wanted_are_looked_up(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, heal_postgres=POSTGRES, heal_llm={"conn_type": "mysql"})
    assert plugin.connected_settings(parts=["database"]).require_database_url() == POSTGRES
    with pytest.raises(SettingsError, match="heal_llm is of type 'mysql'"):
        plugin.connected_settings()


def test_what_is_secret_in_a_connection_is_in_no_log(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.log import redact

    connect(monkeypatch, heal_postgres=POSTGRES, heal_s3=AWS, heal_llm=LLM)
    plugin.connected_settings(artifacts_uri="s3://bucket/artifacts")
    for secret in ("p@ss/word", "the-secret-of-s3", "the-session-token", "the-key-of-the-model"):
        assert redacted(f"found {secret} there") == "found *** there"
        assert redact(f"found {secret} there") == "found *** there"
        logging.getLogger("a.library").warning("found %s there", secret)
        assert secret not in caplog.text
