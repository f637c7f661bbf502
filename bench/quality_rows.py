"""The rows of ``bench.quality`` that train: settings, and changes of the training set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError
from heal_tasks.core.settings import Settings

Values = dict[str, NDArray[np.float64]]
"""Metrics by name, each with a value per query."""
Change = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True)
class Row:
    """A way to train: settings, and what is changed in the training set before."""

    settings: dict[str, Any]
    change: Change | None = None

    def applied(self, settings: Settings) -> Settings:
        """The settings of this row; InputError for a name that is none, which would silently have no effect."""
        if unknown := self.settings.keys() - Settings.model_fields.keys():
            raise InputError(f"a row changes {', '.join(sorted(unknown))}, which are no settings")
        return settings.model_copy(update=self.settings)


def same_as(values: Values, seen: Mapping[str, Values]) -> str:
    """Names the earlier row with the same nDCG for every query: what tells the two apart had no effect."""
    for name, known in seen.items():
        if np.array_equal(values["ndcg@10"], known["ndcg@10"]):
            return f"every query as in {name}"
    return ""


def leaf_level(rows: list[dict[str, Any]]) -> None:
    """Leave of every topic path its leaf."""
    for row in rows:
        row["path"] = row["path"][-1:]


def random_topics(rows: list[dict[str, Any]]) -> None:
    """Deal topic paths out to random documents: the tree's shape stays, its meaning goes."""
    paths = {row["document_id"]: (row["leaf"], row["path"]) for row in rows}
    dealt = np.random.default_rng(0).permutation(sorted(paths))
    other = {own: paths[int(given)] for own, given in zip(sorted(paths), dealt, strict=True)}
    for row in rows:
        row["leaf"], row["path"] = other[row["document_id"]]


PLAIN = {
    "objectives": ("answers",), "train_near_negatives": 0, "train_far_negatives": 0, "base_weight": 0.0,
    "idf_power": 0.0, "train_base_share": 0.0,
}  # fmt: skip
HEAL = PLAIN | {"objectives": ("topics",)}
DEFAULT = {"objectives": ("answers",)}
SAMPLED = DEFAULT | {"train_near_negatives": 1, "train_far_negatives": 1}
TRAINED: dict[str, Row] = {
    "own": Row(PLAIN),
    "base-term": Row(PLAIN | {"base_weight": 0.1}),
    "idf": Row(PLAIN | {"idf_power": 0.25}),
    "halfway": Row(PLAIN | {"train_base_share": 0.5}),
    "paper": Row(PLAIN | {"objectives": ("paper",)}),
    "heal": Row(HEAL),
    "supcon": Row(HEAL, leaf_level),
    "random": Row(HEAL, random_topics),
    "default": Row(DEFAULT),
    "sampled": Row(SAMPLED),
    "maps": Row(SAMPLED | {"map_rate": 0.3}),
}
