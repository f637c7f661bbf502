"""The map of documents: drawn by step report, stored beside the run's page, shown on the page of the store."""

from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.errors import HealError
from heal_tasks.core.ids import fingerprint
from heal_tasks.report.page import read_stored
from heal_tasks.report.templates import render_template
from heal_tasks.store.db import Connection

if TYPE_CHECKING:
    from heal_tasks.report.pictures import Projection  # loads matplotlib, which readers of a page do not need

MAP = "map.html"


class StoredMap(NamedTuple):
    """The newest map, as HTML; or why it cannot be shown."""

    run_id: str
    picture: Markup
    problem: str


def write_map(artifacts: ArtifactStore, run_id: str, projection: "Projection | None") -> str:
    """Write the map of a run as an artifact and return its URI; empty where the run has none."""
    if projection is None:
        return ""
    drawn = render_template("map.html.jinja", projection=projection)
    key = f"maps/{fingerprint([run_id, drawn])}"
    with artifacts.writing(key) as folder:
        (folder / MAP).write_text(drawn, encoding="utf-8")
    return artifacts.uri(key)


def read_map(conn: Connection, artifacts: ArtifactStore) -> StoredMap | None:
    """Read the newest map that a run has drawn; None if none has."""
    row = conn.execute(
        "SELECT run_id, result -> 'refs' ->> 'map_uri' FROM heal.step_result WHERE step = 'report' "
        "AND result -> 'refs' ->> 'map_uri' <> '' ORDER BY number DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    try:
        text = read_stored(artifacts, row[1], MAP, row[0])
    except HealError as error:  # the rest of the page is in the database
        return StoredMap(row[0], Markup(), str(error))
    return StoredMap(row[0], Markup(text), "")  # noqa: S704 - rendered by this project, every text escaped
