"""The command search: by text without a model, and with the encoder."""

import pytest

from heal_tasks.cli.search_commands import print_hits
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
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
    heads, rows = cells(table[1]), [cells(line) for line in table[3:-1]]
    assert heads == ["score", "relevance", "document_id", "title", "text"]
    found = auto.execute("SELECT score, document_id, text FROM heal.find(%s, 2)", (QUESTION,)).fetchall()
    assert [[row[0], row[2], row[4]] for row in rows] == [[f"{s:.3f}", str(d), text] for s, d, text in found]
    assert rows[0][4] == TEXTS[2]
    by_encoder = run("-m", "heal_tasks", "search", QUESTION, "--encoder", **variables).splitlines()
    assert cells(by_encoder[3])[4] == TEXTS[2]
    assert cells(by_encoder[3])[0] != rows[0][0]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]


def test_a_search_without_hits_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_hits(["score"], [])
    assert capsys.readouterr().out.startswith("nothing found; SELECT * FROM heal.explain_find(")
