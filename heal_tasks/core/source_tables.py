"""The file ``sources.toml``: a table per source, checked before anything is opened.

A table's heading is the name of its source, which is part of its documents' ids; its location may change. A value that
is wrong is shown, except one of a key that is not known: it may be a password.
"""

import datetime
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heal_tasks.core.acl import ACL_FIELD
from heal_tasks.core.errors import SettingsError
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.specs import FILE, PYDOCS, S3, SOURCE, check_spec
from heal_tasks.core.text import nearest_name

ENV = "_env"
"""The end of a key that names a variable with a secret: ``url_env = "NAME"`` gives the option ``url``."""

_KEYS = frozenset({"kind", "location", "include", "exclude", "fields", "metadata", "language", "acl"})
_FIELDS = frozenset({"key", "text", "title", "metadata", "updated_at"})

KINDS: dict[str, frozenset[str]] = {
    "folder": frozenset(),
    "s3": frozenset(),
    "gcs": frozenset(),
    "azure": frozenset({"account_url", "credential_env", "connection_string_env"}),
    "postgres": frozenset({"url_env", "query", "deleted"}),
    "sitemap": frozenset({"pages_per_s", "lastmod", "private"}),
    "pydocs": frozenset(),
}
"""Our own kinds with the keys that only they have; the keys of any other kind are checked by its class."""

_SPECS = {"folder": FILE, "s3": S3, "pydocs": PYDOCS}


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a row that make a document; their names count in any case."""

    key: str = "id"
    text: tuple[str, ...] = ()  # several are joined by a blank line; none: ``text``, or else ``body``
    title: str = "title"
    metadata: tuple[str, ...] | None = None  # None: all other fields
    updated_at: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """The part of a table that is about the documents of its source."""

    fields: Fields = field(default_factory=Fields)
    metadata: Mapping[str, Any] = field(default_factory=dict)  # of documents that do not have the field themselves
    language: str = ""
    acl: tuple[str, ...] | None = None  # principals who may read documents that name none; None: everybody

    def version(self) -> str:
        """A hash of what decides about the content of documents; empty for a rule that says nothing."""
        if self.fields == Fields() and not self.metadata and not self.language:
            return ""
        return fingerprint([repr(self.fields), dict(self.metadata), self.language])


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table of ``sources.toml``."""

    file: Path
    name: str
    kind: str
    location: str  # empty if the kind needs none
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rule: Rule = field(default_factory=Rule)
    # The keys of the kind; once the source is opened also the secrets, by their keys without ``_env``.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def spec(self) -> str:
        """The folder, prefix or packages that are read, written as in ``HEAL_SOURCES``; of other kinds the name."""
        return f"{_SPECS[self.kind]}{self.location}" if self.kind in _SPECS else f"{SOURCE}{self.name}"

    def wrong(self, key: str, what: str) -> SettingsError:
        """The error of a key whose value is wrong; ``what`` says how, with the cure."""
        return SettingsError(f"{self.file}: [{self.name}] {key}: {what}")

    def check_keys(self, known: frozenset[str]) -> None:
        """Raise SettingsError for an option that the kind does not know."""
        for key in self.options:
            if key not in known:
                raise self.wrong(key, _unknown(key, known | _KEYS, f"of kind {self.kind!r}"))

    def text(self, key: str, default: str = "") -> str:
        """An option that is a text; SettingsError for any other value."""
        value = self.options.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, f"is {value!r}; write a text in quotes")
        return value


def read_source_tables(file: Path) -> dict[str, SourceTable]:
    """Read the tables of a file, by name.

    Raises:
        SettingsError: the file cannot be read, or a value is wrong; the message names file, table, key and cure.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"HEAL_SOURCES_FILE={file} cannot be read ({error.strerror}); correct the path") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f'{file} is no TOML ({error}); names with blanks are written as ["My Folder"]') from None
    return {name: _table(file, name, values) for name, values in data.items()}


def _table(file: Path, name: str, values: Any) -> SourceTable:
    try:
        check_spec(f"{SOURCE}{name}")
    except ValueError as error:
        raise SettingsError(f"{file}: [{name}]: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{file}: {name} stands in no table; write [NAME] above the keys of each source")
    bare = SourceTable(file, name, "", "")
    kind = _text(bare, values, "kind")
    if not kind:
        raise bare.wrong("kind", f"is missing; write one of {', '.join(KINDS)}, or one of an installed package")
    table = SourceTable(
        file, name, kind, _text(bare, values, "location"), _texts(bare, values, "include"),
        _texts(bare, values, "exclude"), _rule(bare, values),
        {key: value for key, value in values.items() if key not in _KEYS},
    )  # fmt: skip
    for key, value in table.options.items():
        if key.endswith(ENV) and not (isinstance(value, str) and value):
            raise table.wrong(key, "is no name; write the name of the environment variable that has the value")
    if kind in KINDS:
        table.check_keys(KINDS[kind])
        if not table.location and kind != "postgres":
            raise table.wrong("location", f"is missing; a source of kind {kind!r} needs one")
    if kind == "postgres" and bool(table.location) == ("query" in table.options):
        raise table.wrong("location", "give either location (SCHEMA.TABLE) or query, and not both")
    if kind == "postgres" and (table.include or table.exclude):
        raise table.wrong("include", "rows have no paths; write a condition into query")
    if kind in _SPECS:
        try:
            check_spec(table.spec)
        except ValueError as error:
            raise table.wrong("location", str(error)) from None
    return table


def _rule(table: SourceTable, values: Mapping[str, Any]) -> Rule:
    given = _mapping(table, values, "fields")
    for key in given:
        if key not in _FIELDS:
            raise table.wrong(f"fields.{key}", _unknown(key, _FIELDS, "of fields"))
    text = given.get("text", ())
    fields = Fields(
        key=_text(table, given, "key", "fields.") or "id",
        text=(text,) if isinstance(text, str) and text else _texts(table, given, "text", "fields."),
        title=_text(table, given, "title", "fields.") or "title",
        metadata=_texts(table, given, "metadata", "fields.") if "metadata" in given else None,
        updated_at=_text(table, given, "updated_at", "fields."),
    )
    metadata = {key: _plain(value) for key, value in _mapping(table, values, "metadata").items()}
    if any(key.lower() == ACL_FIELD for key in metadata):
        raise table.wrong("metadata", f"names the readers of documents; write {ACL_FIELD} beside it, not in it")
    acl = _texts(table, values, ACL_FIELD) if ACL_FIELD in values else None
    return Rule(fields, metadata, _text(table, values, "language"), acl)


def _text(table: SourceTable, values: Mapping[str, Any], key: str, above: str = "") -> str:
    value = values.get(key, "")
    if not isinstance(value, str):
        raise table.wrong(above + key, f"is {value!r}; write a text in quotes")
    return value


def _texts(table: SourceTable, values: Mapping[str, Any], key: str, above: str = "") -> tuple[str, ...]:
    value = values.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise table.wrong(above + key, f'is {value!r}; write a list of texts, such as ["one", "two"]')
    return tuple(value)


def _mapping(table: SourceTable, values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key, {})
    if not isinstance(value, dict):
        raise table.wrong(key, f'is {value!r}; write a table, such as {{ name = "value" }}')
    return value


def _plain(value: Any) -> Any:
    """A value of TOML as one of JSON: dates as text."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _unknown(key: str, known: frozenset[str], where: str) -> str:
    meant = nearest_name(key, known)
    cure = f"did you mean {meant}? " if meant else ""
    return f"is no key {where} (its value is not shown); {cure}The keys are {', '.join(sorted(known))}"


def own_sources(var_dir: Path, file: Path | None) -> tuple[str, ...]:
    """The sources where none are set: every table of ``sources.toml``, or the inbox."""
    return tuple(f"{SOURCE}{name}" for name in read_source_tables(file)) if file else (inbox_of(var_dir),)


def inbox_of(var_dir: Path) -> str:
    """Spec of the folder that is read where no source is set."""
    return f"{FILE}{var_dir / 'inbox'}"
