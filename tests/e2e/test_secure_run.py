"""A run that fails and then ends, on the server that docker/initdb.sql makes, with a secret in each place for one.

No secret is in any output, row, file or object afterwards, and ``doctor --security`` has nothing to say.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.store.db import connect
from tests.e2e.conftest import SMALL, short
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error

ROOT = Path(__file__).parents[2]
NAMES = ("database", "llm_url", "llm_key", "openai_key", "embed_key", "s3_url", "aws", "serve", "airflow")
SECRETS = {name: f"Pl4nted%{number}ecret/{name}" for number, name in enumerate(NAMES)}


def in_url(name: str) -> str:
    """A secret as a part of a URL."""
    return quote(SECRETS[name], safe="")


def spellings(secret: str) -> set[str]:
    """A secret as it is, in a URL, and in the header of a user with a password."""
    return {secret, quote(secret, safe=""), b64encode(f"somebody:{secret}".encode()).decode().rstrip("=")}


class Indiscreet:
    """A language model whose server repeats the headers of requests: in refusals, in faults and in replies."""

    refuses = True

    def __call__(self, request: Request) -> Reply | None:
        heard = f"you sent {json.dumps(request.headers)}"
        if self.refuses:
            return error(401, f"Incorrect API key provided: {heard}", code="invalid_api_key")
        if request.attempt == 0:
            return completion(f"I will not write JSON, because {heard}")
        return error(500, f"fault: {heard}", retry_after_ms="1") if request.attempt == 1 else None


@dataclass
class Deployment:
    """What the commands of a deployment have said, and the variables of its settings."""

    folder: Path
    variables: dict[str, str]
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: str, **changes: str) -> int:
        command = [sys.executable, "-m", "heal_tasks", *arguments]
        environment = child_environment(**{**self.variables, **changes})
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        self.said.append(f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.returncode


@pytest.fixture
def server(soaking: None) -> Iterator[tuple[EmbeddedPostgres, str]]:
    """A server as the image's first start leaves it, and the URL of the pipeline's database."""
    folder = Path(tempfile.mkdtemp(prefix="heal-postgres-"))
    folder.chmod(0o711)
    made = EmbeddedPostgres(folder / "data")
    made.start()
    try:
        # The server's own user is called heal; the image's is postgres, and the script creates heal.
        script = (ROOT / "docker" / "initdb.sql").read_text().replace("/run/secrets/", f"{folder}/")
        for role in ("airflow", "heal"):
            script = re.sub(rf"\b(ROLE|DATABASE|OWNER|connect) {role}\b", rf"\1 docker_{role}", script)
        (folder / "airflow_db_password").write_text(SECRETS["airflow"])
        (folder / "heal_db_password").write_text(SECRETS["database"])
        psql = [str(made.bin("psql")), "--no-psqlrc", "--set=ON_ERROR_STOP=1", made.url()]
        subprocess.run(psql, input=script, text=True, capture_output=True, check=True)
        yield made, re.sub(r"//[^@]+@", f"//docker_heal:{in_url('database')}@", made.url("docker_heal"))
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_no_secret_is_left_anywhere_and_the_deployment_is_secure(
    server: tuple[EmbeddedPostgres, str], endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": SECRETS["aws"], "DEFAULT_REGION": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3 = boto3.client("s3", endpoint_url=endpoint)
    s3.create_bucket(Bucket="heal")
    rows = short(sample(("networkx",), 30, seed=3))
    s3.put_object(Bucket="heal", Key="inbox/few.jsonl", Body="".join(json.dumps(row) + "\n" for row in rows))
    (postgres, url), model = server, Indiscreet()
    with FakeOpenAI(model) as llm:
        deployment = Deployment(tmp_path, {
            **{f"HEAL_{name.upper()}": str(value) for name, value in SMALL.items()},
            "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HEAL_LOG_LEVEL": "DEBUG",
            "HEAL_VAR_DIR": str(tmp_path / "var"), "HEAL_DATABASE_URL": url,
            "HEAL_LLM_BASE_URL": llm.base_url.replace("//", f"//somebody:{in_url('llm_url')}@"),
            "HEAL_LLM_API_KEY": SECRETS["llm_key"], "OPENAI_API_KEY": SECRETS["openai_key"],
            "HEAL_EMBED_API_KEY": SECRETS["embed_key"], "HEAL_SERVE_TOKEN": SECRETS["serve"],
            "HEAL_S3_ENDPOINT_URL": endpoint.replace("//", f"//somebody:{in_url('s3_url')}@"),
            "HEAL_SOURCES": "s3://heal/inbox", "HEAL_ARTIFACTS_URI": "s3://heal/artifacts",
            "HEAL_MAP_RATE": "0.2", "HEAL_LLM_MODEL": "fake",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRETS["aws"], "AWS_DEFAULT_REGION": "us-east-1",
        })  # fmt: skip
        assert deployment.run("migrate") == 0, deployment.said
        assert deployment.run("run", "--run-id", "r", HEAL_DATABASE_URL=url.replace("%", "%25", 1)) == 1
        assert deployment.run("run", "--run-id", "r") == 1, "the endpoint refuses the key"
        model.refuses = False
        assert deployment.run("run", "--run-id", "r") == 0, deployment.said[-1][-3000:]
        for command in (
            ["report"], ["report", "--page", "page.html"], ["status"], ["settings"], ["questions", "--dropped"],
        ):  # fmt: skip
            deployment.run(*command)
        assert deployment.run("doctor", "--security") == 0, deployment.said[-1]
        sent = str([(request.headers, request.body) for request in (*llm.requests, *llm.probes)])
    print(deployment.said[-1])

    with connect(postgres.url("docker_heal"), autocommit=True) as conn:
        tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'heal'").fetchall()
        found = {
            f"table {t}": str(conn.execute(f"SELECT x::text FROM heal.{t} x".encode()).fetchall()) for (t,) in tables
        }
    found |= {str(path): path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()}
    for item in boto3.resource("s3", endpoint_url=endpoint).Bucket("heal").objects.all():
        found[f"object {item.key}"] = item.get()["Body"].read().decode("latin-1")
    found |= {f"said {number}": text for number, text in enumerate(deployment.said)}
    heard = [name for name in ("llm_url", "llm_key") if any(text in sent for text in spellings(SECRETS[name]))]
    assert heard, "the server had something to repeat"
    leaks = [(place, name) for place, text in found.items() for name, secret in SECRETS.items()
             if any(spelled in text for spelled in spellings(secret))]  # fmt: skip
    assert leaks == []
    assert len(found) > 50
