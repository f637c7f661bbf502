"""Draws thirty nights of one store, as ``tests/e2e/test_thirty_nights.py`` has left them.

Run from the project's root: ``python -m bench.nights --nights FOLDER/nights.json --svg docs/nights.svg``; the test
prints the path. Above the quality of what is served, by the encoder's vector alone (``heal.search``), by encoder,
lexicon and words (``heal.hybrid_search``) and by text (``heal.find``), beside that of the base model with its 95 %
interval on the same questions; below it disk, and the number of documents.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

BASE, BY_VECTOR, BY_ENCODER, BY_TEXT = "#8a8f98", "#1f6fb4", "#6b3fa0", "#c2570c"
EVENT, DISK = "#b9bec6", "#2b7a4b"
ROUTES = {"realign": ("s", 34), "nudge": ("o", 22), "nothing": ("_", 34), "": ("x", 30)}
"""Marker and its size for each route; a night without one did not come so far."""
LOOK = {"svg.fonttype": "none", "svg.hashsalt": "nights", "font.size": 10, "font.family": "sans-serif",
        "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture, on white, so that it can be read in a dark page, too."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(10, 7.2), facecolor="white", layout="constrained")
        quality, disk, documents = figure.subplots(3, 1, sharex=True, height_ratios=(5, 1.6, 1.2))
        nights = [row["night"] for row in rows]

        def values(name: str) -> list[float]:
            return [float(row[name]) for row in rows]

        quality.fill_between(nights, values("base_low"), values("base_high"), color=BASE, alpha=0.25, linewidth=0)
        quality.plot(nights, values("base"), color=BASE, label="base model (95 % interval)")
        quality.plot(nights, values("by_vector"), color=BY_VECTOR, linewidth=2, label="by vector alone")
        quality.plot(nights, values("by_encoder"), color=BY_ENCODER, linewidth=2, label="by encoder, lexicon, words")
        quality.plot(nights, values("by_text"), color=BY_TEXT, linewidth=2, label="by text")
        served = (*values("by_vector"), *values("by_encoder"), *values("by_text"))
        top = 1.04 * max(*served, *values("base_high"))
        quality.set(ylabel="nDCG@10", ylim=(0, 1.42 * top), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
        for row in rows:
            marker, size = ROUTES[row["route"]]
            quality.scatter(row["night"], 0.03 * top, marker=marker, s=size, color="#444444")
            what = row["what"].split(";")[0]
            if what == "-":
                continue
            for axes in (quality, disk, documents):
                axes.axvline(row["night"], ymax=0.7 if axes is quality else 1, color=EVENT, linewidth=0.8, zorder=0)
            quality.text(row["night"], top, what, rotation=90, ha="center", va="bottom", fontsize=9, color="#444444")
        for route, (marker, size) in ROUTES.items():
            quality.scatter([], [], marker=marker, s=size, color="#444444", label=route or "run failed early")
        quality.legend(loc="upper center", bbox_to_anchor=(0.5, 1.24), ncols=4, frameon=False, fontsize=9,
                       columnspacing=1.2, handletextpad=0.4)  # fmt: skip
        disk.plot(nights, values("files_mb"), color=DISK, label="models, reports")
        disk.plot(nights, values("database_mb"), color=DISK, linestyle="--", label="database")
        disk.set(ylabel="MB", ylim=(0, 1.3 * max(values("files_mb") + values("database_mb"))))
        disk.legend(loc="upper left", ncols=2, frameon=False, fontsize=9)
        documents.plot(nights, values("documents"), color="#444444")
        documents.set(ylabel="documents", xlabel="night", ylim=(0, 1.15 * max(values("documents"))),
                      xlim=(0.4, len(rows) + 0.6), xticks=[1, *range(5, len(rows) + 1, 5)])  # fmt: skip
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Draw one picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=Path, required=True, metavar="FILE", help="the figures of the test")
    parser.add_argument("--svg", type=Path, required=True, metavar="FILE", help="the picture")
    arguments = parser.parse_args()
    draw(json.loads(arguments.nights.read_text(encoding="utf-8")), arguments.svg)


if __name__ == "__main__":
    main()
