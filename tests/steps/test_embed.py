"""Step embed_base on a real store: shards share the work, and no text is encoded twice."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import packaged_folder
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors import filling
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

DOCUMENTS, SHARDS = 30, 2


class Recording:
    """Stands before the real encoder: notes what it is asked, and fails when it has been asked often enough."""

    def __init__(self, encoder: Any, asked: list[list[str]], calls: int) -> None:
        self._encoder, self._asked, self._calls = encoder, asked, calls

    def encode(self, texts: Sequence[str], **named: Any) -> Any:
        if len(self._asked) == self._calls:
            raise KeyboardInterrupt
        self._asked.append(list(texts))
        return self._encoder.encode(texts, **named)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that lets the encoder answer so many calls, and returns the list of what they asked."""
    load = filling.load_encoder

    def start(calls: int = 1000) -> list[list[str]]:
        asked: list[list[str]] = []
        monkeypatch.setattr(filling, "load_encoder", lambda *args: Recording(load(*args), asked, calls))
        return asked

    monkeypatch.setattr(filling, "WRITE_EVERY", 4)
    return start


@pytest.fixture
def stored(auto: Connection) -> Connection:
    """Documents of different lengths; one text stands in two of them."""
    texts = [f"Chamber {number}. " + "Cold air. " * (number % 7) for number in range(DOCUMENTS)]
    records = [Record(str(number), "T", text) for number, text in enumerate(texts)]
    DocumentRepository(auto).apply_records("s", records, lambda title, body: [("", body), ("", "The same end.")])
    return auto


def run(settings: Settings, shard: int) -> Manifest:
    return load_step("embed_base").run(settings, Manifest(run_id="r1"), shard, SHARDS)


def test_shards_compute_every_chunk_once_the_longest_first(settings: Settings, stored: Connection, watch: Any) -> None:
    asked = watch()
    counts = [run(settings, shard).counts["chunks"] for shard in range(SHARDS)]
    chunks = stored.execute("SELECT count(*) FROM heal.chunk").fetchone()
    assert sum(counts) == sum(map(len, asked)) == (chunks or (0,))[0] == 2 * DOCUMENTS
    assert min(counts) > 0
    flat = [text for batch in asked for text in batch]
    ends = [text == embedding_text("T", "The same end.") for text in flat]
    assert sum(ends) == DOCUMENTS
    runs_of_ends = sum(now and not before for before, now in zip([False, *ends], ends, strict=False))
    assert runs_of_ends == SHARDS, "equal texts are asked about together, so that each is computed once"


def test_a_finished_shard_is_not_repeated_and_a_killed_one_goes_on(
    settings: Settings, stored: Connection, watch: Any
) -> None:
    first = watch()
    run(settings, 0)
    assert first
    again = watch(0)
    assert run(settings, 0).note.endswith(f"space 1 ({settings.model})")
    assert again == []
    before = watch(2)
    with pytest.raises(KeyboardInterrupt):
        run(settings, 1)
    after = watch()
    run(settings, 1)
    assert len(before) == 2
    computed = sorted(text for batch in [*first, *before, *after] for text in batch)
    everything = [
        embedding_text(title, text)
        for title, text in stored.execute("SELECT title, text FROM heal.chunk JOIN heal.document USING (document_id)")
    ]
    assert computed == sorted(everything)
    (space,) = SpaceRepository(stored).list()
    ids, vectors = SpaceRepository(stored).load_chunks(space)
    assert len(ids) == 2 * DOCUMENTS
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_live_model_that_is_gone_is_named_and_a_new_run_goes_on_without_it(
    settings: Settings, stored: Connection, tmp_path: Path
) -> None:
    folder = tmp_path / "earlier"
    shutil.copytree(str(packaged_folder(PACKAGED_MODEL)), folder)
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")  # otherwise its space would be that of the packaged model
    earlier = settings.model_copy(update={"model": str(folder)})
    assert load_step("first_light").run(earlier, Manifest(run_id="first")).number("went_live") == 1
    DocumentRepository(stored).apply_records("s", [Record("new", "T", "New.")], lambda title, body: [("", body)])
    shutil.rmtree(folder)
    said = rf"generation 1, which is live, needs its own model, {folder}: .* docs/models.md says how to go on"
    for step in ("embed", "embed_new"):
        with pytest.raises(StepError, match=said):
            load_step(step).run(settings, Manifest(run_id="second"))
    stored.execute("UPDATE heal.generation SET state = 'retired', retired_at = now() WHERE state = 'active'")
    assert load_step("first_light").run(settings, Manifest(run_id="third")).number("went_live") == 2
    load_step("embed").run(settings, Manifest(run_id="third"))
