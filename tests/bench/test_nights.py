"""The picture of the nights."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import nights
from tests.e2e.nights.night import Row

MOST_BYTES = 150_000


def test_the_picture_names_every_event_and_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routes, what = ("realign", "nudge", "nothing", ""), {7: "kill; ask killed at 3"}
    rows = [
        Row(number, what.get(number, "-"), routes[number % 4], 3, 110, 0.3, 0.25, 0.35, 0.4, 0.5, 1.0, 17.0)
        for number in range(1, 31)
    ]
    figures, picture = tmp_path / "nights.json", tmp_path / "nights.svg"
    figures.write_text(json.dumps([row.as_json() for row in rows]))
    monkeypatch.setattr(sys, "argv", ["nights", "--nights", str(figures), "--svg", str(picture)])
    nights.main()
    found = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")
    texts = ["".join(item.itertext()).strip() for item in found]
    assert texts.count("kill") == 1
    assert {"nDCG@10", "documents", "night", "nothing", "realign"} <= set(texts)
    assert picture.stat().st_size < MOST_BYTES
