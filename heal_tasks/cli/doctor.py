"""Looks at everything the system stands on and says what to do about what is missing."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.error import URLError
from urllib.request import Request, urlopen

from heal_tasks.core.errors import HealError
from heal_tasks.core.models import packaged_folder
from heal_tasks.core.settings import Settings

if TYPE_CHECKING:
    from heal_tasks.store.db import Connection

MIN_FREE_GB = 5.0
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Args:
        level: ok, note (works, but worth knowing) or fail (a run would fail).
        subject: what was looked at.
        text: what was found, and what to do about it.
    """

    level: Literal["ok", "note", "fail"]
    subject: str
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Run every check; one that breaks is a finding of its own.

    Args:
        settings: all settings.

    Returns:
        Findings in the order of the road.
    """
    checks: dict[str, Callable[[Settings], Iterator[Finding]]] = {
        "database": _database, "sources": _sources, "model": _model, "llm": _llm, "artifacts": _artifacts,
        "disk": _disk, "gpu": _gpu, "airflow": _airflow,
    }  # fmt: skip
    findings: list[Finding] = []
    for subject, check in checks.items():
        try:
            findings.extend(check(settings))
        except Exception as error:
            findings.append(Finding("fail", subject, f"{type(error).__name__}: {error}"))
    return findings


def _database(settings: Settings) -> Iterator[Finding]:
    from heal_tasks.store.db import NEWEST_TRIED, check_versions, connect

    with connect(settings.require_database_url()) as conn:
        check_versions(conn)
        row = conn.execute(
            """SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
                      to_regclass('heal.generation') IS NOT NULL, current_user"""
        ).fetchone()
        assert row is not None
        yield Finding("ok", "database", f"PostgreSQL {row[0]}, pgvector {row[1] or 'not created yet'}, as {row[3]}")
        if conn.info.server_version // 10000 > NEWEST_TRIED:
            yield Finding(
                "note", "database", f"PostgreSQL newer than {NEWEST_TRIED} has not been tried with this version"
            )
        if not row[2]:
            yield Finding("fail", "database", "schema heal is missing; run `python -m heal_tasks migrate`")
        yield from _rights(conn)


def _rights(conn: "Connection") -> Iterator[Finding]:
    roles = {"heal_owner", "heal_pipeline", "heal_reader"}
    missing = roles - {name for (name,) in conn.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^heal_'")}
    if missing:
        yield Finding(
            "note", "database",
            f"roles {', '.join(sorted(missing))} are missing, and this user may not make them; let a superuser CREATE "
            "ROLE them and GRANT heal_pipeline TO heal_owner, heal_owner TO this user, then migrate again",
        )  # fmt: skip
    row = conn.execute(
        """SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
           WHERE e.extname = 'vector' AND has_schema_privilege('public', n.oid, 'CREATE')"""
    ).fetchone()
    if row:
        yield Finding(
            "fail", "database",
            f"everybody may create objects in schema {row[0]}, where pgvector is, and so change what the search "
            f"functions call; REVOKE CREATE ON SCHEMA {row[0]} FROM PUBLIC",
        )  # fmt: skip


def _sources(settings: Settings) -> Iterator[Finding]:
    from heal_tasks.sources.base import open_source

    for spec in settings.sources:
        try:
            first = next(iter(open_source(spec, s3_endpoint_url=settings.s3_endpoint_url).list_files()), None)
        except HealError as error:
            yield Finding("fail", "sources", str(error))
        else:
            yield Finding("ok" if first else "note", "sources", f"{spec}: {'readable' if first else 'no file yet'}")


def _model(settings: Settings) -> Iterator[Finding]:
    folder = Path(packaged_folder(settings.model) or settings.model)
    if not folder.is_dir():
        yield Finding(
            "note", "model",
            f"{settings.model} is no folder here and would be fetched from a hub; give HEAL_MODEL a folder to be "
            "independent of the network",
        )  # fmt: skip
    elif not list(folder.glob("*.safetensors")):
        yield Finding("fail", "model", f"{folder} has no .safetensors file; save the model as safetensors")
    else:
        yield Finding("ok", "model", f"{settings.model} in {folder}")


def _llm(settings: Settings) -> Iterator[Finding]:
    settings.require_llm()
    if not settings.llm_configured:
        yield Finding("note", "llm", "none set; the extractive writer is used. Set HEAL_LLM_BASE_URL or OPENAI_API_KEY")
        return
    if settings.llm_base_url is None:
        yield Finding("ok", "llm", f"OpenAI with the key that is set, model {settings.llm_model}")
        return
    if not settings.llm_base_url.startswith(("http://", "https://")):
        yield Finding("fail", "llm", f"HEAL_LLM_BASE_URL={settings.llm_base_url!r} must begin with http:// or https://")
        return
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else "none"
    request = Request(f"{settings.llm_base_url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})  # noqa: S310 - scheme checked above
    try:
        with urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - scheme checked above
            yield Finding("ok", "llm", f"{settings.llm_base_url} answers")
    except (URLError, TimeoutError) as error:
        yield Finding(
            "fail", "llm", f"{settings.llm_base_url} does not answer ({error}); is the server up, the key right?"
        )


def _artifacts(settings: Settings) -> Iterator[Finding]:
    if not settings.artifacts_uri.startswith("s3://"):
        folder = Path(settings.artifacts_uri)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_text("")
        probe.unlink()
        yield Finding("ok", "artifacts", f"{folder} is writable")
        return
    import boto3

    bucket, _, prefix = settings.artifacts_uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=settings.s3_endpoint_url)
    key = f"{prefix}/.doctor".lstrip("/")
    client.put_object(Bucket=bucket, Key=key, Body=b"")
    client.delete_object(Bucket=bucket, Key=key)
    yield Finding("ok", "artifacts", f"{settings.artifacts_uri} is writable")


def _disk(settings: Settings) -> Iterator[Finding]:
    settings.var_dir.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(settings.var_dir).free / 1e9
    if free_gb < MIN_FREE_GB:
        yield Finding(
            "fail", "disk", f"{free_gb:.1f} GB free in {settings.var_dir}; at least {MIN_FREE_GB:.0f} are needed"
        )
    else:
        yield Finding("ok", "disk", f"{free_gb:.0f} GB free in {settings.var_dir}")


def _gpu(settings: Settings) -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield Finding("ok", "gpu", f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    elif settings.device.startswith("cuda"):
        yield Finding("fail", "gpu", f"HEAL_DEVICE={settings.device} but torch {torch.__version__} sees no GPU")
    else:
        yield Finding("note", "gpu", f"none seen by torch {torch.__version__}; training runs on the processor")


def _airflow(settings: Settings) -> Iterator[Finding]:
    try:
        found = version("apache-airflow")
    except PackageNotFoundError:
        yield Finding("fail", "airflow", "apache-airflow is not installed here; pip install -r requirements.txt")
        return
    from heal_tasks.local.stack import status

    healthy = status(settings).healthy
    yield Finding(
        "ok" if healthy else "note", "airflow", f"{found}, {'running' if healthy else 'not running here; make up'}"
    )
