"""Settings of a corpus: what its file says, the places of its own, and what it has from the deployment."""

from pathlib import Path

import pytest

from heal_tasks.core.corpora import corpus_names, corpus_of, dag_id_of, in_corpus
from heal_tasks.core.errors import SettingsError
from heal_tasks.core.settings import load_settings

DATABASE = "postgresql://u:p@localhost:5432/heal?sslmode=disable"


@pytest.fixture(autouse=True)
def deployment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with two corpora, and an environment of the deployment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "legal.env").write_text("HEAL_SEED=7\nHEAL_SOURCES=file:/contracts\nHEAL_SCHEDULE=\n")
    (tmp_path / "corpora" / "lab.env").write_text("HEAL_DATABASE_URL=postgresql://u:p@elsewhere/lab\n")
    monkeypatch.setenv("HEAL_SEED", "3")
    monkeypatch.setenv("HEAL_TOPIC_DEPTH", "2")
    monkeypatch.setenv("HEAL_SOURCES", "file:/handbook")
    monkeypatch.setenv("HEAL_DATABASE_URL", DATABASE)
    return tmp_path


def test_a_corpus_has_its_file_and_places_of_its_own_and_the_rest_of_the_deployment(deployment: Path) -> None:
    assert corpus_names() == ["lab", "legal"]
    legal, lab, own = load_settings(corpus="legal"), load_settings(corpus="lab"), load_settings()
    assert (legal.seed, legal.topic_depth, legal.sources) == (7, 2, ("file:/contracts",))
    assert legal.require_database_url() == DATABASE.replace("/heal?", "/heal_legal?")
    assert lab.require_database_url() == "postgresql://u:p@elsewhere/lab"
    assert lab.sources == (f"file:{deployment}/var/corpora/lab/inbox",)  # not the deployment's
    assert (own.seed, own.sources, own.require_database_url()) == (3, ("file:/handbook",), DATABASE)
    for places in ([item.var_dir for item in (legal, lab, own)], [item.artifacts_uri for item in (legal, lab, own)]):
        assert len(set(places)) == 3


def test_a_corpus_may_have_tables_of_sources(deployment: Path) -> None:
    (deployment / "sources.toml").write_text('[handbook]\nkind = "folder"\nlocation = "/handbook"\n')
    (deployment / "corpora" / "lab.toml").write_text('[notes]\nkind = "folder"\nlocation = "/notes"\n')
    assert load_settings(corpus="lab").sources == ("source:notes",)
    assert load_settings(corpus="legal").source_tables == {}
    assert [*load_settings().source_tables] == ["handbook"]
    with in_corpus("lab"), pytest.raises(SettingsError, match="handbook"):
        load_settings(sources="source:handbook")


def test_artifacts_in_s3_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_ARTIFACTS_URI", "s3://bucket/heal/")
    assert load_settings(corpus="lab").artifacts_uri == "s3://bucket/heal/corpora/lab"


def test_a_corpus_is_entered_by_context_variable_or_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_corpus("legal"):
        assert load_settings().corpus == "legal"
        with in_corpus(""):
            assert load_settings().corpus == ""
    assert load_settings().corpus == ""
    monkeypatch.setenv("HEAL_CORPUS", "lab")
    assert load_settings().corpus == "lab"


def test_a_run_may_only_name_sources_of_its_own_corpus() -> None:
    with in_corpus("legal"):
        assert load_settings(sources="file:/contracts/2026").sources == ("file:/contracts/2026",)
        with pytest.raises(SettingsError, match="source 'file:/handbook' lies in none of HEAL_SOURCE_ROOTS"):
            load_settings(sources="file:/handbook")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none", None, "there is no corpus 'none': .*none.env is missing; there are: lab, legal"),
        ("../x", None, "'../x' is no name of a corpus"),
        ("a__b", "", "'a__b' is no name of a corpus"),
        ("typo", "HEAL_SED=1", "corpora/typo.env sets HEAL_SED, which a corpus does not have"),
        ("away", "HEAL_VAR_DIR=/x", "corpora/away.env sets HEAL_VAR_DIR, which a corpus does not have"),
        ("same", f"HEAL_DATABASE_URL={DATABASE}", "corpus same has the deployment's own HEAL_DATABASE_URL"),
        ("wrong", "HEAL_SEED=many", "HEAL_SEED='many'"),
    ],
)
def test_wrong_corpora_are_named(deployment: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (deployment / "corpora" / f"{name}.env").write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_settings(corpus=name)


def test_a_file_with_another_kind_of_name_is_refused(deployment: Path) -> None:
    (deployment / "corpora" / "Big Docs.env").touch()
    assert corpus_names() == ["Big Docs", "lab", "legal"]
    with pytest.raises(SettingsError, match="'Big Docs' is no name of a corpus"):
        load_settings(corpus="Big Docs")


def test_dags_carry_the_name_of_their_corpus() -> None:
    assert [corpus_of(dag_id_of("heal_realign", name)) for name in ("", "legal")] == ["", "legal"]


def test_the_machine_belongs_to_all_corpora(deployment: Path) -> None:
    assert load_settings(corpus="lab").machine_dir == load_settings().machine_dir == deployment / "var"
