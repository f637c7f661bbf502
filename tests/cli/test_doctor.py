"""The findings of doctor: database, artifacts, language model."""

import shutil
import tempfile
from pathlib import Path

import pytest

from heal_tasks.cli.doctor import Finding, examine
from heal_tasks.core.errors import StoreError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.indexing import FIRST_OVERSAMPLING, build_indexes
from heal_tasks.store.migrate import migrate_corpora
from tests.conftest import fresh_database
from tests.fake_batches import FakeBatches
from tests.fake_openai import FakeOpenAI, Reply
from tests.steps.planted_store import fill, publish


def findings(settings: Settings, subject: str = "database") -> list[Finding]:
    return [item for item in examine(settings) if item.subject == subject]


def test_artifacts_are_written_and_removed_again(tmp_path: Path) -> None:
    settings = load_settings(var_dir=tmp_path)
    (found,) = findings(settings, "artifacts")
    assert (found.level, found.text) == ("ok", f"{settings.artifacts_uri} is writable")
    assert list(Path(settings.artifacts_uri).iterdir()) == []


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda:one"])
def test_a_device_that_a_training_would_refuse_fails(tmp_path: Path, device: str) -> None:
    (found,) = findings(load_settings(var_dir=tmp_path, device=device), "gpu")
    assert (found.level, found.text.partition(" is ")[0]) == ("fail", f"HEAL_DEVICE: device {device!r}")


def test_the_llm_endpoint_is_asked(tmp_path: Path) -> None:
    with FakeOpenAI() as fake:
        url = fake.base_url
        (found,) = findings(load_settings(var_dir=tmp_path, llm_base_url=url), "llm")
        assert (found.level, found.text) == ("fail", found.text)
        assert found.text.startswith(f"{url} does not answer (HTTP 404: ")
    (found,) = findings(load_settings(var_dir=tmp_path, llm_base_url=url), "llm")
    assert found.level == "fail"
    assert found.text.startswith(f"{url} does not answer (")
    (found,) = findings(load_settings(var_dir=tmp_path, llm_base_url="localhost:1"), "llm")
    assert found.text == "HEAL_LLM_BASE_URL='localhost:1' must begin with http:// or https://"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply("<html>Sign in</html>"), "Sign in"),
        (Reply({"error": {"code": 401, "message": "wrong key"}}), "wrong key"),
        (Reply("", 302, {"Location": "https://login.example"}), "302"),
        (Reply("{", fault="drip"), "time"),
        (Reply(b" " * 65536, fault="endless"), "larger than any"),
        (Reply("{}", headers={"Content-Type": "application/json; charset=zlib"}), "answers"),
    ],
    ids=["page", "error in 200", "redirect", "slow", "endless", "charset"],
)
def test_what_is_no_list_of_models_is_no_llm(
    tmp_path: Path, reply: Reply, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal_tasks.cli.doctor.LLM_WAIT_S", 0.5)
    memory = FakeBatches()
    memory.on_file = lambda: reply
    with FakeOpenAI(batches=memory) as fake:
        # The fake has no list of models, but files of any name.
        (found,) = findings(load_settings(var_dir=tmp_path, llm_base_url=f"{fake.base_url}/files"), "llm")
    assert found.level == ("ok" if words == "answers" else "fail")
    assert words in found.text


def test_a_good_database_and_one_that_everybody_may_write_to(auto: Connection, settings: Settings) -> None:
    (found,) = findings(settings)
    assert (found.level, found.text[:11]) == ("ok", "PostgreSQL ")
    assert ", pgvector 0.8." in found.text
    auto.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    _, found = findings(settings)
    assert found.level == "fail"
    assert found.text.endswith("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def test_the_index_of_what_is_live_is_named(auto: Connection, settings: Settings) -> None:
    fill(auto)
    made, generations = publish(auto, "m", 1), GenerationRepository(auto)
    build_indexes(auto, made, memory_mb=64, kind="bit")
    generations.set_fields(made.generation_id, recall=0.961)
    _, found = findings(settings)
    told = f"generation 1 is live, with index bit at oversampling {FIRST_OVERSAMPLING}, recall@10 0.961"
    assert found == Finding("ok", "database", told)
    build_indexes(auto, made, memory_mb=64, kind="none")
    auto.execute("UPDATE heal.generation SET note = 'the index is halfvec instead of bit: why', recall = NULL")
    _, found, note = findings(settings)
    assert found.text == "generation 1 is live, without an index, recall@10 not measured"
    assert note == Finding("note", "database", "generation 1: the index is halfvec instead of bit: why")


def test_a_server_without_the_schema(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="heal-postgres-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "data")
    try:
        found = findings(load_settings(var_dir=tmp_path, database_url=server.start()))
    finally:
        server.stop()
        shutil.rmtree(folder)
    assert [item.level for item in found] == ["ok", "fail", "note"]
    assert "pgvector not created yet" in found[0].text
    assert "run `python -m heal_tasks migrate`" in found[1].text
    assert found[2].text.startswith("roles heal_owner, heal_pipeline, heal_reader are missing")


def test_corpora_are_checked(
    postgres: EmbeddedPostgres, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").mkdir()
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    settings = load_settings(var_dir=tmp_path)
    assert findings(settings, "corpora") == []
    with fresh_database(postgres) as other:
        # One database, written in three ways.
        (tmp_path / "corpora" / "lab.env").write_text(f"HEAL_DATABASE_URL={other}\n")
        (tmp_path / "corpora" / "legal.env").write_text(f"HEAL_DATABASE_URL={other}?application_name=legal\n")
        (tmp_path / "corpora" / "main.env").write_text(f"HEAL_DATABASE_URL={database_url}?connect_timeout=9\n")
        (tmp_path / "corpora" / "new.env").touch()
        (tmp_path / "corpora" / "wrong.env").write_text("HEAL_SED=1\n")
        same, shared, missing, wrong, fine = findings(settings, "corpora")
        cure = "have the same database; set another in corpora"
        assert same == Finding("fail", "corpora", f"corpus legal and lab {cure}/legal.env")
        assert shared == Finding("fail", "corpora", f"corpus main and the deployment {cure}/main.env")
        assert (missing.level, missing.text[:4]) == ("fail", "new:")
        assert "does not exist" in missing.text
        assert missing.text.endswith("`python -m heal_tasks migrate` makes a missing database")
        assert (wrong.level, wrong.text.partition(",")[0]) == ("fail", "wrong: corpora/wrong.env sets HEAL_SED")
        assert (fine.level, fine.text.partition(";")[0]) == ("ok", "lab, legal, main")
        for name in ("new", "wrong"):
            (tmp_path / "corpora" / f"{name}.env").unlink()
        (tmp_path / "corpora" / "Away.env").touch()
        (tmp_path / "corpora" / "away.env").write_text("HEAL_DATABASE_URL=localhost\n")
        migrated = []
        with pytest.raises(StoreError) as caught:
            for name, _ in migrate_corpora(database_url):
                migrated.append(name)
        assert migrated == ["lab"], "wrong files keep none of the others from their schema"
        reasons = dict(line.split(" was left out: ") for line in str(caught.value).splitlines())
        assert list(reasons) == [f"corpus {name}" for name in ("Away", "away", "legal", "main")]
        assert "is no name of a corpus" in reasons["corpus Away"]
        assert "URL is malformed" in reasons["corpus away"]
        assert reasons["corpus legal"] == f"corpus legal and lab {cure}/legal.env"
