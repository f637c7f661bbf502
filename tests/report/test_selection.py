"""The table of how a number of topics was chosen."""

import pytest

from heal_tasks.report.stored_tree import COLUMNS, selection_rows
from heal_tasks.topics.nmfk import KRecord


def record(k: int, error: float = 0.8, **fields: object) -> KRecord:
    return KRecord(
        **{
            "k": k, "relative_error": error, "drop": 0.1, "drop_ratio": 0.5, "null_ratio": 2.0, "stands_out": True,
            "iterations": 1, **fields,
        }
    )  # fmt: skip


def silhouettes(terms: float, documents: float, smallest: int, accepted: bool = False) -> dict[str, object]:
    return {
        "term_silhouette": terms, "document_silhouette": documents,
        "smallest_topic": smallest, "accepted": accepted,
    }  # fmt: skip


ONE = record(1, 0.95, **silhouettes(1.0, 1.0, 300, True))


@pytest.mark.parametrize(
    ("item", "result"),
    [
        (ONE, "no split"),
        (record(4, **silhouettes(0.9, 0.9, 20, True)), "chosen"),
        (record(2), "not needed: a larger k passed"),
        (record(3, **silhouettes(0.9, 0.9, 20, True)), "passed, and so did a larger k"),
        (record(5, **silhouettes(0.9, 0.7, 20)), "unstable: silhouette below 0.80"),
        (record(6, **silhouettes(0.9, 0.9, 3)), "smallest topic too small"),
        (record(7, stands_out=False), "error drop too small"),
        (record(8, stands_out=False, **silhouettes(0.2, 0.2, 3)), "error drop too small"),
    ],
)
def test_every_k_has_a_result(item: KRecord, result: str) -> None:
    (row,) = selection_rows([item], 4, 0.8)
    assert row[-1] == result


def test_a_table_shows_measurements_and_nothing_else() -> None:
    one, two, three = selection_rows(
        [ONE, record(2, 0.9, drop_ratio=1.0, null_ratio=3.0), record(3, 0.86, **silhouettes(0.9, 0.95, 20))], 3, 0.8
    )
    assert one == ("1", "0.9500", "", "", "", "", "", "no split")
    assert two == ("2", "0.9000", "1.00", "3.00", "", "", "", "not needed: a larger k passed")
    assert three == ("3", "0.8600", "0.50", "2.00", "0.90", "0.95", "20", "chosen")
    assert len(COLUMNS) == len(one)
