"""The benches of the steps choose, publish and nudge_live on small data: they run, and a lexicon is part of them."""

import pytest

from bench import choose_memory, nudge_incremental
from heal_tasks.store.db import Connection


def test_choose_and_publish_on_planted_vectors(
    auto: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_memory, "HELD_OUT", 40)
    choose_memory.plant(database_url, 300)
    refs = {"topic_run_id": 1, "answers_model_uri": choose_memory.TRAINED}
    for step in ("choose", "publish"):
        made, note = choose_memory.run_step(database_url, step, refs)
        refs |= made
        assert (step == "choose") is ("lexicon of" in note)
    stems = auto.execute("SELECT count(DISTINCT w.lexeme) FROM heal.chunk, unnest(words) w").fetchall()
    table = f"heal.lex_g{refs['generation_id']:06d}"
    assert auto.execute(f"SELECT count(*) FROM {table} WHERE chunks > 0").fetchall() == stems


def test_nights_of_new_documents_extend_the_lexicon(
    auto: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nudge_incremental, "ARRIVALS", 20)
    monkeypatch.setattr(nudge_incremental, "NIGHTS", 2)
    monkeypatch.setattr(nudge_incremental, "PROBES", 30)
    row = nudge_incremental.bench(database_url, 400)
    assert row["rows"] == 400
    assert row["step CPU s"] > 0
    assert auto.execute("SELECT count(*) FROM heal.lex_g000001").fetchall() == [(40,)]
