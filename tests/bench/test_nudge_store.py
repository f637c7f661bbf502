"""The store bench on a small store: both ways are measured, and serve the wanted rows."""

import json

from bench.nudge_store import main


def test_both_ways(tmp_path, capsys):
    main(["--rows", "300", "--shares", "0.1", "--runs", "1", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["nudge_store"]
    assert [(row["way"], row["share"]) for row in rows] == [("new table", "any"), ("in place", "10%")]
    for row in rows:
        assert row["recall"] > 0.9
        assert row["server CPU s"] > 0
    assert rows[1]["table size"] >= 1
    assert "| in place" in capsys.readouterr().out
