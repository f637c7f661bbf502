"""Manifests, models, topic trees, training sets and reports that somebody has changed: refused with a sentence.

Nothing in them is run, nothing outside the state folder is read or deleted, and what is live stays. ``make soak`` runs
it and prints what became of each change.
"""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.artifacts import COMPLETE
from heal_tasks.core.errors import HealError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.report.page import read_page
from heal_tasks.sources.samples import sample
from heal_tasks.steps.engine.road import load_step, run_pipeline, steps_of
from heal_tasks.steps.engine.runner import ArtifactStore
from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import GenerationRepository
from tests.conftest import TEMPLATE
from tests.e2e.conftest import SMALL, short
from tests.e2e.kill_points import Snapshots
from tests.e2e.store_state import unsound

DOCUMENTS = 48


class Canary:
    """Run by whoever unpickles it."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.touched),)


class Recorded(dict[str, int | str]):
    """Refs that say which of them were read."""

    read: set[str]

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


@dataclass
class Tampering:
    """A store after a realignment, with the manifest before each step, and a folder outside that must stay."""

    values: dict[str, Any]
    snapshots: Snapshots
    outside: Path
    table: Callable[[str], None]
    before: dict[str, Manifest] = field(default_factory=dict)
    tried: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return load_settings(**self.values)

    @property
    def artifacts(self) -> Path:
        return Path(self.settings.artifacts_uri)

    def live(self) -> int:
        with connect(self.settings.require_database_url()) as conn:
            active = GenerationRepository(conn).active()
        return active.generation_id if active else 0

    def attempt(self, what: str, work: Callable[[], Any], *, may_pass: bool, chosen: object = 0) -> None:
        """Do something that is to be refused, or that leaves what is live as it is or publishes what was chosen."""
        live, said = self.live(), ""
        try:
            work()
        except HealError as error:
            said = str(error)
            wrong = "" if len(said) > 20 else f"no sentence: {said!r}"
        except Exception as error:
            wrong = f"UNNAMED {type(error).__name__}: {error}"
        else:
            wrong = "" if may_pass else "it was taken"
        with connect(self.settings.require_database_url(), autocommit=True) as conn:
            found = [fault for fault in unsound(conn) if live and not fault.startswith(("missing: 1", "1 generations"))]
        if self.live() not in (live, chosen):
            found.append(f"generation {self.live()} is live instead of {live}")
        if {path.name for path in self.outside.iterdir()} != {COMPLETE, "password", "modules.json"}:
            found.append("the folder outside is another")
        if (self.outside.parent / "touched").exists():
            found.append("CODE WAS RUN")
        result = "; ".join(filter(None, [wrong, *found]))
        line = f"{what:70.70} {f'WRONG: {result}' if result else said[:110] or 'no harm'}"
        self.tried += 1
        self.table(line)
        if result:
            self.faults.append(line)


@pytest.fixture
def tampering(
    soaking: None, postgres: EmbeddedPostgres, tmp_path: Path, table: Callable[[str], None]
) -> Iterator[Tampering]:
    """A realigned store, with the state before each step kept."""
    var_dir, outside = tmp_path / "var", tmp_path / "outside"
    (var_dir / "inbox").mkdir(parents=True)
    outside.mkdir()
    for name in (COMPLETE, "password", "modules.json"):
        (outside / name).write_text("[]")
    rows = short(sample(("networkx",), DOCUMENTS, seed=3))
    (var_dir / "inbox" / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    snapshots = Snapshots(postgres, "tampered", var_dir, tmp_path)
    values = {
        **SMALL, "var_dir": var_dir, "database_url": snapshots.begin(TEMPLATE), "train_max_steps": 2,
        "train_eval_steps": 1, "topic_min_documents": 20, "train_batch_size": 4,
    }  # fmt: skip
    made = Tampering(values, snapshots, outside, table)
    manifest = Manifest(run_id="second")
    for name in ("ingest", "route", *steps_of(made.settings, "realign"), "report"):
        made.before[name] = manifest
        snapshots.save(name)
        manifest = load_step(name).run_to_end(load_settings(**values, force_route="realign"), manifest)
    made.before["done"] = manifest
    snapshots.save("done")
    yield made
    for name in made.before:
        snapshots.drop(name)
    snapshots.end()


def hostile(tampering: Tampering, name: str, value: int | str) -> Iterator[int | str]:
    """Values in place of a ref: of no row and of another run's, of another kind, of files elsewhere."""
    if isinstance(value, int):
        yield from (10**6, -1, 2**62, "1; DROP TABLE heal.document", tampering.live())
        return
    outside = str(tampering.outside)
    if name.endswith("_uri"):
        root = tampering.artifacts
        yield from (
            outside,
            f"{root}/../../{tampering.outside.name}",
            f"{root}/models",
            "s3://bucket/heal/x",
            f"file://{outside}",
        )
        kinds = [root / kind for kind in ("models", "training_sets", "topics") if (root / kind).is_dir()]
        yield from (str(next(kind.iterdir())) for kind in kinds)
    yield from (7, "../" * 20 + "etc/passwd", "'; DROP TABLE heal.document; --", "<script>alert(1)</script>")


def test_a_manifest_that_was_changed(tampering: Tampering) -> None:
    for step, manifest in tampering.before.items():
        if step in ("ingest", "done"):
            continue
        tampering.snapshots.restore(step)
        refs = Recorded(manifest.refs)
        refs.read = set()
        settings = load_settings(**tampering.values, force_route="realign")
        load_step(step).run_to_end(settings, Manifest.model_construct(**{**vars(manifest), "refs": refs}))
        for name in sorted(refs.read):
            for value in hostile(tampering, name, manifest.refs.get(name, "")):
                if value == manifest.refs.get(name, ""):
                    continue
                tampering.snapshots.restore(step)
                changed = manifest.model_copy(update={"refs": {**manifest.refs, name: value}})
                tampering.attempt(
                    f"{step}: {name}={value!r}",
                    partial(load_step(step).run_to_end, settings, changed),
                    may_pass=True,
                    chosen=manifest.refs.get("generation_id", 0),
                )
    assert tampering.tried >= 40
    assert tampering.faults == []


def replaced(file: Path, tampering: Tampering) -> Iterator[tuple[str, Callable[[], None]]]:
    """Ways to change a file of an artifact."""
    canary = pickle.dumps(Canary(tampering.outside.parent / "touched"))

    def link() -> None:
        file.unlink()
        file.symlink_to(tampering.outside / "password")

    def pipe() -> None:
        file.unlink()
        os.mkfifo(file)

    def flip() -> None:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    yield "a pickle", lambda: file.write_bytes(canary) and None
    yield "other JSON", lambda: file.write_text('{"format": 1, "a": [1]}') and None
    yield "empty", lambda: file.write_bytes(b"") and None
    yield "cut", lambda: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]) and None
    yield "one bit", flip
    yield "a link to a file outside", link
    yield "a pipe", pipe
    yield "gone", file.unlink


def model_code(folder: Path, tampering: Tampering) -> Iterator[tuple[str, Callable[[], None]]]:
    """Code and pickles that a model may bring."""
    touched = tampering.outside.parent / "touched"
    canary, code = pickle.dumps(Canary(touched)), f"import os\nos.mkdir({str(touched)!r})\nclass Mine: pass\n"

    def config(file: str, **values: Any) -> None:
        (folder / "mine.py").write_text(code)
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **values}))

    def modules() -> None:
        (folder / "mine.py").write_text(code)
        parts = json.loads((folder / "modules.json").read_text())
        parts.append({"idx": len(parts), "name": "x", "path": "", "type": "mine.Mine"})
        (folder / "modules.json").write_text(json.dumps(parts))

    def pickled() -> None:
        for file in folder.glob("*.safetensors"):
            file.unlink()
        (folder / "pytorch_model.bin").write_bytes(canary)

    yield "auto_map", lambda: config("config.json", auto_map={"AutoModel": "mine.Mine"}, trust_remote_code=True)
    yield "a class of its own", modules
    yield "pytorch_model.bin in place of the weights", pickled
    yield "pytorch_model.bin beside the weights", lambda: (folder / "pytorch_model.bin").write_bytes(canary) and None


def test_files_that_were_changed(tampering: Tampering) -> None:
    night = load_settings(**tampering.values)
    realign = load_settings(**tampering.values, force_route="realign")

    def trying(what: str, at: str, change: Callable[[], None], work: Callable[[], Any], may_pass: bool) -> None:
        tampering.snapshots.restore(at)
        change()
        tampering.attempt(what, work, may_pass=may_pass)

    def uri(ref: str) -> Path:
        return Path(str(tampering.before["done"].refs[ref]))

    def embed() -> None:
        load_step("embed").run_to_end(realign, tampering.before["embed"])

    model = uri("answers_model_uri")
    changes = list(model_code(model, tampering))
    changes += replaced(model / "model.safetensors", tampering)
    for what, change in changes:
        trying(f"model, {what}", "embed", change, embed, False)

    def train() -> None:
        load_step("train").run_to_end(realign, tampering.before["train"])

    training_set = uri("training_set_uri")
    for file in sorted(set(training_set.iterdir()) - {training_set / COMPLETE}):
        for what, change in replaced(file, tampering):
            # A letter of a question is no fault that shows; without questions nothing is trained.
            trying(f"training set, {file.name}: {what}", "train", change, train, what in ("one bit", "empty"))

    def nudge() -> None:
        (tampering.settings.var_dir / "inbox" / "new.jsonl").write_text('{"id": "new", "text": "A graph of newts."}\n')
        run_pipeline(night, "night")

    tree = uri("topics_uri")
    for file in sorted(set(tree.iterdir()) - {tree / COMPLETE}):
        for what, change in replaced(file, tampering):
            trying(f"topic tree, {file.name}: {what}", "done", change, nudge, what == "one bit")

    def page() -> None:
        with connect(tampering.settings.require_database_url()) as conn:
            read_page(conn, ArtifactStore(tampering.settings.artifacts_uri, tampering.settings.var_dir / "c"), "second")

    for what, change in replaced(uri("report_uri") / "report.html", tampering):
        trying(f"report: {what}", "done", change, page, False)
    assert tampering.tried >= 50
    assert tampering.faults == []
