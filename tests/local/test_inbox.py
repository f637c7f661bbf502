"""The demo's documents: the first ones stay, each batch brings twenty new ones."""

import json
from collections import Counter
from pathlib import Path

import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.inbox import drop_more, fill

PACKAGES = ("rich", "typer")


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    return load_settings(var_dir=tmp_path, demo_documents=60)


def read(settings: Settings) -> dict[str, str]:
    rows = [
        json.loads(line)
        for path in (settings.var_dir / "inbox").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert max(Counter(row["id"] for row in rows).values()) == 1
    return {row["id"]: row["text"] for row in rows}


def test_filled_once(small: Settings) -> None:
    assert fill(small, PACKAGES) == 60
    before = read(small)
    assert len(before) == 60
    assert fill(small, PACKAGES) == 0
    assert read(small) == before


def test_the_same_settings_write_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert fill(load_settings(var_dir=tmp_path / folder, demo_documents=60), PACKAGES) == 60
    inboxes = [tmp_path / folder / "inbox" for folder in ("one", "two")]
    assert sorted(file.name for file in inboxes[0].iterdir()) == [f"{package}.jsonl" for package in PACKAGES]
    for package in PACKAGES:
        assert len({(inbox / f"{package}.jsonl").read_bytes() for inbox in inboxes}) == 1


def test_each_batch_is_new_and_changes_and_deletes_another(small: Settings) -> None:
    fill(small, PACKAGES)
    ever, current = set(read(small)), read(small)
    changed_ids = []
    for batch in (1, 2, 3):
        arrival = drop_more(small, PACKAGES)
        after = read(small)
        new = after.keys() - current.keys()
        assert len(new) == len(arrival.new) == 20
        assert not new & ever, "a deleted document came back, or an old one was counted as new"
        assert len(current.keys() - after.keys()) == 1
        changed = [key for key in current.keys() & after.keys() if current[key] != after[key]]
        assert len(changed) == 1
        assert after[changed[0]].startswith(f"Note of batch {batch}: this text was changed")
        assert after[changed[0]].endswith(current[changed[0]])
        changed_ids += changed
        ever |= new
        current = after
    assert len(set(changed_ids)) == 3
    assert not list((small.var_dir / "inbox").glob("*.tmp"))


def test_a_filled_inbox_is_not_refilled_after_a_batch(small: Settings) -> None:
    fill(small, PACKAGES)
    drop_more(small, PACKAGES)
    before = read(small)
    assert fill(small, PACKAGES) == 0
    assert read(small) == before


def test_a_batch_needs_the_first_documents(small: Settings) -> None:
    with pytest.raises(InputError, match=r"does not hold the demo's documents; run `make demo` first"):
        drop_more(small, PACKAGES)


def test_packages_run_out(tmp_path: Path) -> None:
    settings = load_settings(var_dir=tmp_path, demo_documents=50)
    fill(settings, ("pgvector", "typer"))
    before = read(settings)
    with pytest.raises(InputError, match=r"have no 20 documents beyond .*smaller HEAL_DEMO_DOCUMENTS"):
        for _ in range(100):
            drop_more(settings, ("pgvector", "typer"))
            before = read(settings)
    assert read(settings) == before
