"""The kinds of source: ours, and those of installed packages, by entry points of the group ``heal_etl.sources``.

A package's class is called with the ``SourceTable``; it has ``list_files`` and ``read`` as ``Source`` says. Keys of the
table that only it knows are in its attribute ``keys``, a frozenset of texts.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from heal_tasks.core.environment import secret_variable
from heal_tasks.core.errors import HealError
from heal_tasks.core.source_tables import ENV, KINDS, SourceTable
from heal_tasks.core.specs import FILE, PYDOCS, S3
from heal_tasks.core.text import nearest_name
from heal_tasks.sources.files import FolderSource
from heal_tasks.sources.pydocs import PyDocsSource
from heal_tasks.sources.s3 import S3Source

if TYPE_CHECKING:
    from heal_tasks.sources.base import Source

GROUP = "heal_etl.sources"

NOT_WATCHED = frozenset({"pydocs", "postgres", "sitemap"})
"""Kinds whose listing costs too much for a look every few minutes, or asks a stranger's server for every page."""


def open_table(table: SourceTable, s3_endpoint_url: str | None) -> "Source":
    """Open the source of a table without listing it.

    Raises:
        SettingsError: a key is wrong, a variable of a secret is not set, or no installed package offers the kind.
        SourceError: its folder or package does not exist.
    """
    table = replace(table, options={**table.options, **_secrets(table)})
    if table.kind == "folder":
        return FolderSource(f"{FILE}{table.location}")
    if table.kind == "s3":
        return S3Source(f"{S3}{table.location}", endpoint_url=s3_endpoint_url)
    if table.kind == "pydocs":
        return PyDocsSource(f"{PYDOCS}{table.location}")
    if table.kind == "postgres":
        from heal_tasks.sources.postgres import PostgresSource

        return PostgresSource(table)
    if table.kind == "gcs":
        from heal_tasks.sources.gcs import GcsSource

        return GcsSource(table)
    if table.kind == "azure":
        from heal_tasks.sources.azure import AzureSource

        return AzureSource(table)
    if table.kind == "sitemap":
        from heal_tasks.sources.sitemap import SitemapSource

        return SitemapSource(table)
    return _class_of(table)(table)


def _secrets(table: SourceTable) -> dict[str, str]:
    """The values of the variables that the table names, by the keys without ``_env``."""
    found = {}
    for key, variable in table.options.items():
        if key.endswith(ENV):
            value = secret_variable(variable)
            if value is None:
                cure = f"set it in the environment or .env, or as the container's secret {variable.lower()}"
                raise table.wrong(key, f"the variable {variable} is not set; {cure}")
            found[key.removesuffix(ENV)] = value
    return found


def _class_of(table: SourceTable) -> Callable[[SourceTable], "Source"]:
    """The class that an installed package offers for the kind."""
    offered = {item.name: item for item in entry_points(group=GROUP)}
    if table.kind not in offered:
        meant = nearest_name(table.kind, [*KINDS, *offered])
        cure = f"did you mean {meant!r}? " if meant else ""
        ours, theirs = ", ".join(KINDS), ", ".join(sorted(offered)) or "none"
        raise table.wrong("kind", f"is {table.kind!r}; {cure}Ours are {ours}; of installed packages: {theirs}")
    try:
        made: Any = offered[table.kind].load()
    except HealError:
        raise
    except Exception as error:
        what = f"{offered[table.kind].value} cannot be imported ({type(error).__name__}: {error})"
        raise table.wrong("kind", f"is {table.kind!r}, and {what}; mend or reinstall its package") from error
    keys = frozenset(getattr(made, "keys", ()))
    table.check_keys(keys | {key.removesuffix(ENV) for key in keys})
    return made  # type: ignore[no-any-return]
