"""Lineage of a step for OpenLineage, if Airflow's provider for it is installed: datasets read and written, with counts.

The provider sees the queries of Airflow's hooks; the steps use psycopg, of which it sees nothing. So each step tells it
through the provider's public function; without the provider nothing is imported.
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heal_tasks.core.manifest import Manifest
    from heal_tasks.core.settings import Settings

_TABLES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "ingest": ((), {"document": "new changed moved", "chunk": "chunks_added", "quarantine": "rejected"}),
    "label": (("document", "chunk"), {"topic": "topics", "document_topic": "documents"}),
    "assign_labels": (("document", "chunk", "topic"), {"document_topic": "documents"}),
    "ask": (("chunk",), {"question": "kept", "llm_call": "asked"}),
    "map_entities": (("chunk",), {"entity_map": "usable"}),
    "mine": (("chunk", "question"), {}),
    "choose": (("chunk", "question"), {"evaluation": ""}),
    "first_light": (("chunk",), {"vec_g{went_live:06d}": "rows", "embedding": "rows"}),
    "publish": (("chunk", "question", "document_topic"), {"vec_g{went_live:06d}": "rows", "embedding": "rows"}),
    "nudge_live": (
        ("chunk", "question", "document_topic"),
        {"vec_g{went_live:06d}": "rows_added rows_changed", "embedding": "rows_added rows_changed"},
    ),
}
"""Tables and views of schema heal that a step reads, and those that it writes with the names of the counts of rows."""

_ARTIFACTS = {"train": "training_set_uri", "embed": "_model_uri", "choose": "_model_uri", "publish": "_model_uri"}
"""Ends of the refs of artifacts that a step reads."""

Place = tuple[str, str]
"""Namespace and name of a dataset, as OpenLineage writes them."""


def emit_lineage(settings: "Settings", before: "Manifest", after: "Manifest") -> None:
    """Send an OpenLineage event with the datasets of the step that is ending; no fault of it fails the step.

    Args:
        settings: name the sources and the database.
        before: manifest of the step before.
        after: manifest of this step.
    """
    try:
        from airflow.providers.openlineage.api import emit_dataset_lineage, is_openlineage_active
        from openlineage.client.event_v2 import InputDataset, OutputDataset
        from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics
    except ImportError:  # the provider is optional, and an older one has no such function
        return
    if not is_openlineage_active():
        return
    try:
        inputs, outputs = datasets(settings, before, after)
        if inputs or outputs:
            emit_dataset_lineage(
                inputs=[InputDataset(*place) for place in inputs],
                outputs=[
                    OutputDataset(
                        *place,
                        outputFacets={"outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(rowCount=rows)}
                        if rows is not None
                        else {},
                    )
                    for place, rows in outputs.items()
                ],
            )
    except Exception as error:
        logging.getLogger(__name__).warning("no lineage was sent (%s)", type(error).__name__)


def datasets(
    settings: "Settings", before: "Manifest", after: "Manifest"
) -> tuple[list[Place], dict[Place, int | None]]:
    """Datasets that a step read, and those that it wrote with the number of rows, or None where that says nothing.

    They are sources, tables of schema heal, and artifacts.
    """
    read, written = _TABLES.get(after.step, ((), {}))
    table = _naming(settings.require_database_url())
    sources = map(settings.place_of, settings.sources) if after.step == "ingest" else ()
    inputs = [_place(source) for source in sources]
    inputs += [table(name) for name in read]
    outputs: dict[Place, int | None] = {}
    for name, counts in written.items():
        rows = [after.counts[count] for count in counts.split() if count in after.counts]
        # Without its counts a step had nothing to do; ref went_live is 0 where it published nothing.
        if (rows or not counts) and after.refs.get("went_live", 1):
            outputs[table(name.format(**after.refs))] = int(sum(rows)) if rows else None
    for name, uri in after.refs.items():
        if name.endswith("_uri") and uri and before.refs.get(name) != uri:
            outputs[_place(str(uri))] = None
        elif name.endswith(_ARTIFACTS.get(after.step, "-")) and uri:
            inputs.append(_place(str(uri)))
    return inputs, outputs


def _naming(url: str) -> Any:
    """A function from a table of schema heal to its place, without user and password."""
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(url)
    server = f"postgres://{parts.get('host')}:{parts.get('port') or 5432}"
    return lambda name: (server, f"{parts.get('dbname')}.heal.{name}")


def _place(spec: str) -> Place:
    """The place of a source or an artifact: a folder, a prefix in a bucket, or the documentation of packages."""
    if spec.startswith("s3://"):
        bucket, _, prefix = spec.removeprefix("s3://").partition("/")
        return f"s3://{bucket}", prefix.strip("/") or "/"
    scheme, _, path = spec.rpartition(":")
    return scheme or "file", path
