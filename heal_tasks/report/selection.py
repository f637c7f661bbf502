"""The table of how a number of topics was chosen, for page and terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heal_tasks.topics.nmfk import KRecord

COLUMNS = (
    "k", "relative error", "drop ratio", "null ratio", "silhouette of terms", "silhouette of documents",
    "smallest topic", "result",
)  # fmt: skip


def selection_rows(records: "Sequence[KRecord]", chosen: int, threshold: float) -> list[tuple[str, ...]]:
    """List for every k of a node the cells of ``COLUMNS``: its measurements, and why it was chosen or not.

    ``chosen`` is the number of topics that it was split into, ``threshold`` the smallest silhouette of a stable k.
    """
    rows = []
    for record in records:
        values = (record.drop_ratio, record.null_ratio, record.term_silhouette, record.document_silhouette)
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        cells.append("" if record.smallest_topic is None else str(record.smallest_topic))
        if record.k == 1:
            cells = [""] * len(cells)  # they hold by definition and would only look like measurements
        rows.append((str(record.k), f"{record.relative_error:.4f}", *cells, _result(record, chosen, threshold)))
    return rows


def _result(record: "KRecord", chosen: int, threshold: float) -> str:
    if record.k == chosen:
        return "chosen"
    if record.k == 1:
        return "no split"
    if not record.stands_out:
        return "error drop too small"
    if record.silhouette is None:
        return "not needed: a larger k passed"
    if record.accepted:
        return "passed, and so did a larger k"
    if record.silhouette < threshold:
        return f"unstable: silhouette below {threshold:.2f}"
    return "smallest topic too small"
