"""Adoption of a table: its columns, the model of its vectors, the comparison with that model, and what to set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import InputError, RetryableError, SettingsError
from heal_tasks.core.models import api_model, api_sha256, resolve_model, with_options
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.settings import Settings, as_variable
from heal_tasks.core.specs import TABLE, check_spec, is_within, join_specs
from heal_tasks.steps.adopting.describe import collection_id, column_types, dimensions, find_table, pgai_settings
from heal_tasks.steps.adopting.presets import Columns, choose_columns, other_columns
from heal_tasks.steps.vectors.adopted import Comparison, compare
from heal_tasks.steps.vectors.encoders import open_encoder
from heal_tasks.store.adopted.adopted import Adopted, AdoptedRepository
from heal_tasks.store.adopted.user_table import UserTable, reading_connection
from heal_tasks.store.db import Connection, connect

ROWS_PER_PART = 500
"""A changed row has its part read again: about as much as one query costs anyway."""

LEAST_RELATED = 0.5
"""Least median cosine where more than the text was embedded. Vectors of two models have cosines of about 0."""

BY_DIMENSION = {384: PACKAGED_MODEL, 1536: "openai:text-embedding-3-small", 3072: "openai:text-embedding-3-large"}
"""The most common model of each dimension, for a table that says nothing about its own."""


@dataclass(frozen=True)
class Adoption:
    """An adopted table, and what has been found about it."""

    adopted: Adopted
    rows: int
    unusable: int  # rows without a vector that can be taken
    empty: int  # rows without text
    why_model: str
    notes: Sequence[str]
    settings: dict[str, str]  # to be set, by variable

    def lines(self) -> list[str]:
        """The adoption as text."""
        item = self.adopted
        columns = [f"id {item.id_column}", f"text {item.text_column}", f"vector {item.vector_column}"]
        columns += [f"metadata {item.metadata_column}"] if item.metadata_column else []
        columns += [f"and into the metadata {', '.join(item.other_columns)}"] if item.other_columns else []
        change = f"column {item.updated_column}" if item.updated_column else "a hash of text and metadata"
        left = [f"{self.unusable} rows have no usable vector and will be embedded"] if self.unusable else []
        left += [f"{self.empty} rows have no text and are left out"] if self.empty else []
        return [
            f"table      {item.schema_name}.{item.table_name}{f' ({item.preset})' if item.preset else ''}: "
            + "; ".join([f"{self.rows} rows with text, {item.dims} dimensions", *left]),
            f"columns    {', '.join(columns)}",
            f"changes    found by {change}",
            f"model      {item.model}, {self.why_model}",
            f"checked    {item.checked}",
            *(f"note       {note}" for note in self.notes),
        ]


def adopt_table(
    settings: Settings,
    name: str,
    given: Columns,
    *,
    preset: str = "",
    collection: str = "",
    model: str = "",
    more_than_text: bool = False,
    own_queries: bool = True,
) -> Adoption:
    """Describe a table, compare its vectors with their model, and store it as a source.

    Args:
        settings: with the database, and the endpoint of a model behind an API.
        name: of the table.
        given: columns that are named.
        preset: the client that made it; empty to recognise it.
        collection: of PGVector, by its name.
        model: as in ``HEAL_MODEL``; empty to find it out.
        more_than_text: the application embedded more than the text, for example a title before it.
        own_queries: its clients encode queries with the model themselves, and not by ``heal_tasks serve``.

    Raises:
        InputError: the table, a column or the model is not as it has to be.
    """
    url = settings.require_database_url()
    with reading_connection(url) as conn:
        adopted, why, notes = _described(conn, settings, name, given, preset, collection, model)
        table = UserTable(conn, adopted)
        rows, unusable, empty = table.unusable()
        if rows == unusable:
            raise InputError(
                f"{name} has {rows} rows with text, and none of them a usable vector; there is nothing to adopt"
            )
        settings, checked, sha256 = _checked(settings, table, more_than_text)
        parts = max(1, math.ceil(rows / ROWS_PER_PART))
        adopted = replace(adopted, checked=checked, model_sha256=sha256, parts=parts, own_queries=own_queries)
    with connect(url, autocommit=True) as conn:
        others = [item for item in AdoptedRepository(conn).list() if item.source != adopted.source]
        if other := next((item for item in others if item.model != adopted.model), None):
            raise InputError(
                f"{other.source} has vectors of {other.model}; a store has one model, so adopt {adopted.source} into "
                "another database, or DELETE FROM heal.adopted WHERE source names the other one"
            )
        AdoptedRepository(conn).save(adopted)
    return Adoption(adopted, rows, unusable, empty, why, notes, _to_set(settings, adopted))


def _described(
    conn: Connection, settings: Settings, name: str, given: Columns, preset: str, collection: str, model: str
) -> tuple[Adopted, str, list[str]]:
    """The table as far as its description goes, why this model is assumed, and notes."""
    schema, table = find_table(conn, name)
    types, notes, wanted = column_types(conn, schema, table), list[str](), ""
    preset, columns = choose_columns(types, given, preset)
    if columns.collection:
        wanted = collection_id(conn, schema, collection)
    elif collection:
        raise InputError(f"--collection {collection!r}: {schema}.{table} has no collections")
    dims = dimensions(conn, schema, table, columns.vector)
    named, named_dims, template = pgai_settings(conn, schema, table) if preset == "pgai" else ("", 0, "")
    if template and template != "$chunk":
        notes.append(
            f"pgai embeds {template!r}, which is more than the chunk: rows without a vector are embedded without it"
        )
    if named_dims and named_dims != dims:
        notes.append(f"pgai's vectorizer asks for {named_dims} dimensions, the table has {dims}")
    why = "as named by --model" if model else "as pgai's vectorizer says" if named else ""
    if not why and "model" in settings.model_fields_set:
        named, why = settings.model, "as HEAL_MODEL says"
    if not model and not named:
        named, why = BY_DIMENSION.get(dims, ""), f"assumed: the most common one of {dims} dimensions"
        if not named:
            raise InputError(f"{schema}.{table} has vectors of {dims} dimensions; name their model by --model")
    source = f"{TABLE}{schema}.{table}{f'#{collection}' if collection else ''}"
    try:
        check_spec(source)
    except ValueError as error:
        raise InputError(str(error)) from None
    adopted = Adopted(
        source, schema, table, columns.id, columns.text, columns.vector, columns.metadata,
        other_columns(types, columns), columns.updated_at, columns.collection, wanted, preset, model or named, "", dims,
        1, "",
    )  # fmt: skip
    return adopted, why, notes


def _checked(settings: Settings, table: UserTable, more_than_text: bool) -> tuple[Settings, str, str]:
    """The settings with the dimensions to ask an API for, how the vectors were compared, and the model's identity.

    Raises:
        InputError: the model has not made the vectors.
    """
    item = table.adopted
    try:
        settings, found, sha256 = _compared(settings, table)
    except (SettingsError, RetryableError) as error:
        return settings, f"not checked, because the model is not reachable: {error}. The first run checks it", ""
    least = LEAST_RELATED if more_than_text else None
    if found.same or (least and found.median >= least):
        return settings, found.text(), sha256
    raise InputError(
        f"{item.model} has not made the vectors of {item.source}: {found.text()}. Name the model that has by --model; "
        "if the application embeds more than the text, such as a title before it, give --more-than-text"
    )


def _compared(settings: Settings, table: UserTable) -> tuple[Settings, Comparison, str]:
    item = table.adopted
    if api_model(item.model):
        if not (settings.embed_key or settings.embed_base_url):
            raise SettingsError("neither HEAL_EMBED_API_KEY nor HEAL_EMBED_BASE_URL is set")
        sha256, path = "", ""
    else:
        from heal_tasks.training.encoder import model_sha256  # torch: 5 s

        path = resolve_model(item.model, "--model")
        sha256 = settings.model_options.identity(model_sha256(path))
    uri = with_options(item.model, settings.model_options)
    encoder = open_encoder(settings, artifact_store(settings), uri, sha256)
    if api_model(item.model):
        if int(encoder.encode(["length"]).shape[1]) != item.dims:
            settings = settings.model_copy(update={"dimensions": item.dims})
            uri = with_options(item.model, settings.model_options)
            encoder = open_encoder(settings, artifact_store(settings), uri, sha256)
        sha256 = api_sha256(item.model, settings.model_options)
    return settings, compare(table, encoder), sha256


def _to_set(settings: Settings, adopted: Adopted) -> dict[str, str]:
    """The settings under which a run reads the table, where they are not so already."""
    own = () if settings.sources == (settings.inbox,) else settings.sources
    values = {"HEAL_SOURCES": join_specs(dict.fromkeys((*own, adopted.source)))}
    if settings.source_roots and not is_within(adopted.source, settings.source_roots):
        values["HEAL_SOURCE_ROOTS"] = join_specs((*settings.source_roots, adopted.source))
    values["HEAL_MODEL"] = adopted.model
    if settings.dimensions:
        values["HEAL_DIMENSIONS"] = as_variable(settings.dimensions)
    return values
