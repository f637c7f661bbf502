"""Adopted tables: which columns of whose table are documents and vectors, and the model that made the vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

from heal_tasks.core.errors import SourceError
from heal_tasks.core.models import split_uri
from heal_tasks.store.db import Repository, find, insert, select
from heal_tasks.store.spaces.spaces import Space


@dataclass(frozen=True)
class Adopted:
    """A row of ``heal.adopted``, whose comments describe the columns."""

    source: str
    schema_name: str
    table_name: str
    id_column: str
    text_column: str
    vector_column: str
    metadata_column: str
    other_columns: Sequence[str]
    updated_column: str
    condition_column: str
    condition_value: str
    preset: str
    model: str
    model_sha256: str
    dims: int
    parts: int
    checked: str
    own_queries: bool = True

    def is_of(self, space: Space) -> bool:
        """True if the table has vectors of this space's model, or is thought to and was never compared."""
        return (
            space.model_sha256 == self.model_sha256
            if self.model_sha256
            else split_uri(space.model_uri)[0] == self.model
        )


class AdoptedRepository(Repository):
    """The adopted tables of a store."""

    def list(self) -> Sequence[Adopted]:
        """All of them, by source."""
        return select(self._conn, Adopted, "FROM heal.adopted ORDER BY source")

    def get(self, source: str) -> Adopted:
        """One by its source; SourceError if it has not been adopted."""
        found = find(self._conn, Adopted, "FROM heal.adopted WHERE source = %s", (source,))
        if found is None:
            name = source.partition(":")[2]
            raise SourceError(f"{source} has not been adopted; run `python -m heal_tasks adopt {name}`")
        return found

    def save(self, adopted: Adopted) -> None:
        """Store one, in place of an earlier row of its source."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.execute("DELETE FROM heal.adopted WHERE source = %s", (adopted.source,))
            insert(cursor, "adopted", [adopted])

    def note_check(self, source: str, model_sha256: str, checked: str) -> None:
        """Store that the vectors of a table were compared with a model's."""
        self._conn.execute(
            "UPDATE heal.adopted SET model_sha256 = %s, checked = %s WHERE source = %s", (model_sha256, checked, source)
        )
