"""The watcher of sources: an event per settled change, none without one, and no error ends it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import pytest

pytestmark = pytest.mark.usefixtures("plugins")


class Store:
    """The state of an asset, as Airflow keeps it."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = value


class Watching:
    """A trigger whose looks are counted; ``look`` lets it look once more and returns whether an event came."""

    def __init__(self, store: Store) -> None:
        from heal_watch import SourceTrigger

        self.trigger = SourceTrigger(minutes=5)
        self.trigger.asset_state_store = store  # type: ignore[assignment]
        self.events: list[Any] = []

    async def looks(self, number: int) -> int:
        """Number of events in so many looks."""
        before, left = len(self.events), number

        class EnoughError(Exception):
            pass

        async def sleep(seconds: float) -> None:
            nonlocal left
            assert seconds == 300
            left -= 1
            if not left:
                raise EnoughError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("heal_watch.asyncio.sleep", sleep)
            running: AsyncIterator[Any] = self.trigger.run()
            with pytest.raises(EnoughError):
                async for event in running:
                    self.events.append(event.payload)
        return len(self.events) - before


def test_a_settled_change_is_one_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    monkeypatch.setenv("HEAL_SOURCES", f"file:{inbox} pydocs:json")

    async def scene() -> None:
        store = Store()
        watching = Watching(store)
        assert await watching.looks(3) == 0  # nothing is there
        (inbox / "a.txt").write_text("one")
        (inbox / "b.part").write_text("an upload under way")
        (inbox / "app.log").write_text("no kind that is read")
        assert await watching.looks(1) == 0  # not settled yet
        assert await watching.looks(1) == 1
        assert watching.events == [{"changed": [f"file:{inbox}"]}]
        (inbox / "app.log").write_text("still no kind that is read")
        assert await watching.looks(3) == 0
        assert await Watching(store).looks(3) == 0  # nor does another triggerer repeat the event
        (inbox / "a.txt").unlink()
        assert await watching.looks(4) == 1

    asyncio.run(scene())


def test_a_folder_that_never_settles_has_its_event_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heal_watch import MAX_CHANGING

    monkeypatch.setenv("HEAL_SOURCES", f"file:{tmp_path}")

    async def scene() -> None:
        watching = Watching(Store())
        came = []
        for number in range(MAX_CHANGING + 1):
            (tmp_path / f"{number}.txt").write_text("one more")
            came.append(await watching.looks(1))
        assert came == [0] * (MAX_CHANGING - 1) + [1, 0]

    asyncio.run(scene())


def test_an_error_ends_nothing_and_looks_like_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.txt").write_text("one")
    monkeypatch.setenv("HEAL_SOURCES", f"file:{inbox}")

    async def scene() -> None:
        watching = Watching(Store())
        assert await watching.looks(2) == 1
        inbox.rename(tmp_path / "elsewhere")
        assert await watching.looks(3) == 0
        monkeypatch.setenv("HEAL_TOPIC_DEPTH", "many")
        assert await watching.looks(2) == 0  # wrong settings
        monkeypatch.delenv("HEAL_TOPIC_DEPTH")
        (tmp_path / "elsewhere").rename(inbox)
        assert await watching.looks(3) == 0
        (inbox / "b.txt").write_text("two")
        assert await watching.looks(2) == 1

    asyncio.run(scene())


def test_tables_are_watched_except_those_of_databases_and_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "sources.toml").write_text(
        f"[docs]\nkind = 'folder'\nlocation = '{tmp_path}/in'\nexclude = ['draft*']\n"
        "[crm]\nkind = 'postgres'\nlocation = 'article'\nurl_env = 'NO_SUCH_VARIABLE'\n"
        "[site]\nkind = 'sitemap'\nlocation = 'http://127.0.0.1:1/sitemap.xml'\n"
    )
    monkeypatch.setenv("HEAL_SOURCES_FILE", str(tmp_path / "sources.toml"))
    monkeypatch.delenv("HEAL_SOURCES", raising=False)

    async def scene() -> None:
        watching = Watching(Store())
        (tmp_path / "in" / "draft.txt").write_text("one")
        assert await watching.looks(3) == 0
        (tmp_path / "in" / "a.txt").write_text("one")
        assert await watching.looks(2) == 1
        assert watching.events == [{"changed": ["source:docs"]}]

    asyncio.run(scene())


def test_buckets_are_watched(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HEAL_SOURCES": "s3://watched/inbox", "HEAL_S3_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="watched")

    async def scene() -> None:
        watching = Watching(Store())
        assert await watching.looks(2) == 0
        client.put_object(Bucket="watched", Key="inbox/a.txt", Body=b"one")
        client.put_object(Bucket="watched", Key="other/b.txt", Body=b"no source")
        assert await watching.looks(2) == 1
        client.put_object(Bucket="watched", Key="inbox/a.txt", Body=b"two")
        assert await watching.looks(2) == 1

    asyncio.run(scene())


def test_the_trigger_is_stored_without_secrets_and_made_again() -> None:
    from airflow.sdk.module_loading import import_string
    from heal_watch import SourceTrigger

    path, arguments = SourceTrigger(minutes=5).serialize()
    assert arguments == {"minutes": 5, "corpus": ""}
    assert import_string(path)(**arguments).minutes == 5
