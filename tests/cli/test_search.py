"""The command search: by text without a model, and with the encoder."""

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from heal_tasks.cli.app import app
from heal_tasks.cli.search_commands import print_hits
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.search import TextHit
from tests.cli.in_process import run_main
from tests.cli.test_app import run
from tests.serve.published import TEXTS, add_documents, publish

QUESTION = "Which rock comes from volcanoes?"
LOADED = (
    "import atexit, runpy, sys; sys.argv = ['heal_tasks', 'search', *sys.argv[1:]]; "
    "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules})); "
    "runpy.run_module('heal_tasks', run_name='__main__', alter_sys=True)"
)


def test_search_by_text_loads_no_model(auto: Connection, settings: Settings) -> None:
    add_documents(auto)
    publish(auto, settings.model, lexicon_weight=0.5)
    variables = {"HEAL_VAR_DIR": str(settings.var_dir), "HEAL_DATABASE_URL": settings.require_database_url()}
    *table, loaded = run("-c", LOADED, QUESTION, "-k", "2", **variables).splitlines()
    assert not {"torch", "sentence_transformers", "scipy", "openai", "jinja2", "fastapi"} & set(loaded.split())
    heads, rows = cells(table[1]), [cells(line) for line in table[3:-2]]
    assert table[-1] == "generation 1"
    assert heads == ["score", "relevance", "document_id", "title", "text"]
    found = auto.execute("SELECT score, document_id, text FROM heal.find(%s, 2)", (QUESTION,)).fetchall()
    assert [[row[0], row[2], row[4]] for row in rows] == [[f"{s:.3f}", str(d), text] for s, d, text in found]
    assert rows[0][4] == TEXTS[2]
    by_encoder = run_main("search", QUESTION, "--encoder", **variables)[1].splitlines()
    assert cells(by_encoder[3])[4] == TEXTS[2]
    assert cells(by_encoder[3])[0] != rows[0][0]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]


def test_a_search_without_hits_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_hits(["score"], [])
    assert capsys.readouterr().out.startswith("nothing found; SELECT * FROM heal.explain_find(")


@pytest.fixture
def search(auto: Connection, settings: Settings) -> Callable[..., tuple[int, str, str]]:
    """The command, in a store of few documents: exit code, output, message of the error."""
    add_documents(auto)
    publish(auto, settings.model, lexicon_weight=0.5)
    auto.execute(
        """UPDATE heal.document SET metadata = '{"lang": "en"}' WHERE document_id = (
        SELECT document_id FROM heal.find(%s, 1))""",
        (QUESTION,),
    )
    shell = CliRunner(env={"HEAL_VAR_DIR": str(settings.var_dir), "HEAL_DATABASE_URL": settings.require_database_url()})

    def command(*arguments: str) -> tuple[int, str, str]:
        done = shell.invoke(app, ["search", *arguments])
        return done.exit_code, done.stdout, str(done.exception or "")

    return command


@pytest.mark.parametrize("text", ["", "  ", "\t\n", "\u200b"])
def test_an_empty_text_is_refused(search: Callable[..., tuple[int, str, str]], text: str) -> None:
    code, out, error = search(text)
    assert (code, out) == (1, "")
    assert error == "the text to look for is empty; give a question or some words"


def test_words_that_no_document_has_are_named(search: Callable[..., tuple[int, str, str]]) -> None:
    assert search("zyxgluph qwertish")[:2] == (
        0,
        "nothing found: the lexicon has none of the words qwertish, zyxgluph\n",
    )


def test_a_filter_and_json(search: Callable[..., tuple[int, str, str]]) -> None:
    everything = [json.loads(line) for line in search(QUESTION, "--json")[1].splitlines()]
    assert len(everything) > 1
    assert everything[0]["text"] == TEXTS[2]
    assert set(everything[0]) == set(TextHit._fields)
    for way in ((), ("--encoder",)):
        found = search(QUESTION, "--json", "--filter", '{"lang": "en"}', *way)[1].splitlines()
        assert [json.loads(line)["document_id"] for line in found] == [everything[0]["document_id"]]
    assert search(QUESTION, "--json", "--filter", '{"lang": "fr"}')[:2] == (0, "")
    for wrong in ("lang", "[1]", '"en"'):
        code, _, error = search(QUESTION, "--filter", wrong)
        assert code == 1
        assert f"--filter {wrong!r} is no JSON" in error
