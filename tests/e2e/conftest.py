"""One small real corpus for the end-to-end tests of this folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.steps.engine.road import run_pipeline
from tests.conftest import fresh_database

DOCUMENTS = 80
CHARACTERS = 450
"""Documents are cut short so that embedding them takes seconds."""

SMALL = {
    "train_max_steps": 4, "train_eval_steps": 2, "train_batch_size": 8, "train_max_tokens": 48,
    "topic_perturbations": 3, "topic_max_k": 4, "gate_min_questions": 5, "objectives": "answers",
}  # fmt: skip


BRIEF = SMALL | {"train_max_steps": 2, "train_eval_steps": 2}
"""For tests of what becomes of a trained model, not of training."""


@dataclass
class Deployment:
    """A state folder with an inbox, a database, and the runs made in it."""

    settings: Settings
    manifests: dict[str, list[Manifest]]

    def run(self, run_id: str, **overrides: Any) -> list[Manifest]:
        made: list[Manifest] = []
        run_pipeline(self.settings.model_copy(update=overrides), run_id, made.append)
        self.manifests[run_id] = made
        return made

    def inbox(self, name: str) -> Path:
        return self.settings.var_dir / "inbox" / name

    def read(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.inbox(name).read_text().splitlines()]

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.inbox(name).parent.mkdir(parents=True, exist_ok=True)
        self.inbox(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "text": row["text"][:CHARACTERS]} for row in rows]


@pytest.fixture(scope="module")
def inbox(endpoint: str) -> Iterator[str]:
    """An S3 server with documents; its URL."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3 = boto3.client("s3", endpoint_url=endpoint)
        s3.create_bucket(Bucket="heal")
        rows = short(sample(("networkx",), 70, seed=3))
        s3.put_object(Bucket="heal", Key="inbox/few.jsonl", Body="".join(json.dumps(row) + "\n" for row in rows))
        yield endpoint


@pytest.fixture(scope="module")
def unaligned(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment with documents in its inbox, and no run."""
    var_dir = tmp_path_factory.mktemp("deployment")
    with fresh_database(postgres) as url:
        changes = BRIEF | {"objectives": "answers topics", "extra_training_minutes": 60}
        made = Deployment(load_settings(var_dir=var_dir, database_url=url, **changes), {})
        made.write("first.jsonl", short(sample(("sklearn", "networkx", "scipy"), DOCUMENTS, seed=5)))
        yield made


@pytest.fixture(scope="module")
def deployment(unaligned: Deployment) -> Deployment:
    """A realigned deployment; tests run it again, in their order."""
    unaligned.run("first")
    return unaligned
