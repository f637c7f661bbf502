"""Every setting of the project in one class, read once at the edge (command line, DAG task) and passed down.

A value comes from, in this order: an environment variable ``HEAL_<NAME>``, the file ``.env`` in the
working folder, the file ``local.env`` that ``make up`` writes into the state folder, a container's secret
``/run/secrets/heal_<name>``, the default.
Only this module and ``environment`` read the process environment; ``*_settings`` and ``setting_groups`` have fields.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from heal_tasks.core import run_settings as running
from heal_tasks.core import setting_groups as groups
from heal_tasks.core.corpora import corpus_overrides, entered_corpus
from heal_tasks.core.environment import ENV_FILE, SECRETS_FOLDER, absolute, variables_in
from heal_tasks.core.errors import SettingsError
from heal_tasks.core.models import ModelOptions, with_options
from heal_tasks.core.redaction import redact_logs, remember, remember_url
from heal_tasks.core.source_settings import SourceSettings
from heal_tasks.core.source_tables import inbox_of, own_sources
from heal_tasks.core.specs import PYDOCS, SOURCE, is_within, join_specs
from heal_tasks.core.text import nearest_name

OPENAI_URL = "https://api.openai.com/v1"
SOURCES_FILE = Path("sources.toml")
"""File of the sources, in the working folder, where no setting names another."""

_SECRETS = (
    "database_url", "llm_base_url", "llm_api_key", "embed_base_url", "embed_api_key", "s3_endpoint_url", "serve_token",
)  # fmt: skip
"""Settings that are a secret or may have one in them: a wrong value is not shown."""

_HTTP_URL = re.compile(
    r"https?://([^@/?#\s]*@)?([\w.-]+|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?(/([^\s@?#]|(?<=/)@)*)?", re.IGNORECASE
)


class Settings(
    running.LocalSettings, running.AirflowSettings, running.RunSettings, groups.ServeSettings, groups.StoreSettings,
    groups.EvaluationSettings, groups.NudgeSettings, groups.TrainingSettings, groups.EncoderSettings,
    groups.QuestionSettings, groups.TopicSettings, SourceSettings, groups.CoreSettings, BaseSettings,
):  # fmt: skip
    """All settings; ``docs/settings.md`` lists them."""

    model_config = SettingsConfigDict(env_prefix="HEAL_", extra="ignore", frozen=True, allow_inf_nan=False)

    @field_validator("artifacts_uri")
    @classmethod
    def _folder_or_s3(cls, value: str) -> str:
        if re.match(r"[a-z][a-z0-9+.-]*:", value, re.IGNORECASE) and not re.match("s3://[^/]", value):
            raise ValueError("is neither a folder nor s3://BUCKET/PREFIX; write one of these, a folder without file:")
        return str(absolute(value)) if value.startswith("~") else value

    @field_validator("llm_base_url", "embed_base_url", "s3_endpoint_url")
    @classmethod
    def _well_formed(cls, value: str | None) -> str | None:
        # A library that cannot parse it would quote a part of it, which may be one of a password.
        if value and ("://" in value or "@" in value):
            found = _HTTP_URL.fullmatch(value)
            if found is None or int(found["port"] or 0) > 65535:
                raise ValueError(
                    "is malformed (it is not shown, because it may have a password): write http://HOST:PORT/PATH or "
                    "http://USER:PASSWORD@HOST:PORT/PATH, with special characters of the password as %40 for @, %3A "
                    "for :, %2F for /"
                )
        return value

    @field_validator("llm_api_key", "embed_api_key", "serve_token")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        # A library that cannot send it in a header would quote it.
        if value and not re.fullmatch("[!-~]+", value.get_secret_value()):
            raise ValueError("has a blank, a line end or a letter that is not ASCII (it is not shown): write it again")
        return value

    @model_validator(mode="after")
    def _check_roots(self) -> Self:
        for source in self.sources:
            if not self.permits(source):
                raise ValueError(
                    f"source {source!r} lies in none of HEAL_SOURCE_ROOTS ({join_specs(self.allowed_roots)}); add its "
                    "folder or prefix to that setting, or choose a source inside"
                )
        return self

    @field_validator("question_filters", "objectives", "alerts", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        # Each once: of two equal objectives the second would train the same model again.
        return (
            tuple(dict.fromkeys(name for name in value.split() if name != "none")) if isinstance(value, str) else value
        )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: dict[str, Any]) -> dict[str, Any]:
        # An empty variable means unset, but an empty schedule means none.
        values = {key: value for key, value in values.items() if value not in ("", None) or key.endswith("schedule")}
        values["var_dir"] = absolute(values.get("var_dir") or "var")
        values.setdefault("artifacts_uri", str(values["var_dir"] / "artifacts"))
        if "sources_file" in values or SOURCES_FILE.is_file():
            values["sources_file"] = absolute(values.get("sources_file") or SOURCES_FILE)
        values.setdefault("sources", own_sources(values["var_dir"], values.get("sources_file")))
        if key := os.environ.get("OPENAI_API_KEY"):
            values.setdefault("llm_api_key", key)
            # Nobody else's endpoint is sent this key unasked.
            if "embed_base_url" not in values:
                values.setdefault("embed_api_key", key)
        return values

    @property
    def allowed_roots(self) -> tuple[str, ...]:
        """Specs of the places that sources may lie in."""
        named = (SOURCE,) if self.source_tables else ()
        return self.source_roots or tuple(dict.fromkeys((*self.sources, self.inbox, PYDOCS, *named)))

    def permits(self, source: str) -> bool:
        """True if a source may be read: it lies in the roots, or is a table that names no folder, prefix or package.

        So a person who may only start runs can name no host and no database of their own.
        """
        place = self.place_of(source)
        return place.startswith(SOURCE) or is_within(place, self.allowed_roots) or is_within(source, self.allowed_roots)

    @property
    def reads_default_sources(self) -> bool:
        """True if the sources are those of a deployment where none are set."""
        return self.sources == own_sources(self.var_dir, self.sources_file)

    @property
    def machine_dir(self) -> Path:
        """The state folder of what runs on this machine for all corpora: the embedded Postgres and Airflow."""
        return self.var_dir.parents[1] if self.corpus else self.var_dir

    @property
    def inbox(self) -> str:
        """Spec of the folder that is read where no source is set."""
        return inbox_of(self.var_dir)

    @property
    def embed_key(self) -> str | None:
        """The key of the embeddings endpoint in clear, for those who send it."""
        return self.embed_api_key.get_secret_value() if self.embed_api_key else None

    @property
    def embed_url(self) -> str:
        """The embeddings endpoint."""
        return self.embed_base_url or OPENAI_URL

    @property
    def llm_configured(self) -> bool:
        """True if an LLM generates the questions; otherwise the extractive writer does."""
        return bool(self.llm_base_url or self.llm_api_key)

    @property
    def llm_key(self) -> str | None:
        """The key of the language model's endpoint in clear, for those who send it."""
        return self.llm_api_key.get_secret_value() if self.llm_api_key else None

    @property
    def llm_url(self) -> str:
        """The language model's endpoint."""
        return self.llm_base_url or OPENAI_URL

    @property
    def llm_writes_maps(self) -> bool:
        """True if an LLM writes the entity maps; otherwise the extractive writer does."""
        return self.map_writer == "llm" or (self.map_writer == "auto" and self.llm_configured)

    @property
    def model_options(self) -> ModelOptions:
        """The options of the base model."""
        return ModelOptions(self.dimensions, self.query_prompt, self.document_prompt)

    @property
    def model_uri(self) -> str:
        """The base model with its options, as in ``heal.space``."""
        return with_options(self.model, self.model_options)

    def require_llm(self) -> None:
        """Raise SettingsError if entity maps or answers are wanted, and there is no LLM."""
        for name, number, what in (
            ("HEAL_MAP_RATE", self.map_rate if self.map_writer == "llm" else 0, "entity maps"),
            ("HEAL_ANSWER_QUESTIONS", self.answer_questions, "answers"),
        ):
            if number and not self.llm_configured:
                cure = f"set HEAL_LLM_BASE_URL or HEAL_LLM_API_KEY, or {name}=0"
                raise SettingsError(f"{name}={number:g} requires an LLM to write {what}; {cure}")

    def require_database_url(self) -> str:
        """The database URL; SettingsError if none is set."""
        if self.database_url is None:
            raise SettingsError(
                "HEAL_DATABASE_URL is not set and no embedded Postgres has been started here; "
                "run `make up`, set it to a postgresql:// URL, or in Airflow add a connection heal_postgres"
            )
        return self.database_url.get_secret_value()


GROUPS = [base for base in reversed(Settings.__bases__) if issubclass(base, BaseModel) and base is not BaseSettings]
"""The classes of the settings, in the order of ``docs/settings.md``."""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; overrides win over environment and files.

    Raises:
        SettingsError: a value is wrong; the message names the variable, the value and what is allowed. Sources among
            the overrides must lie in ``HEAL_SOURCE_ROOTS``, or where that is unset in the environment's own sources.
    """
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise SettingsError(f"there are no settings {', '.join(sorted(unknown))}; docs/settings.md lists them")
    redact_logs()
    # Names of variables count in any case, as in the files that pydantic reads.
    given = {name.upper(): text for name, text in (*variables_in(ENV_FILE).items(), *os.environ.items())}
    corpus = overrides.get("corpus", entered_corpus() or given.get("HEAL_CORPUS", ""))
    if "sources" in overrides and "source_roots" not in overrides:
        own = load_settings(**{name: value for name, value in overrides.items() if name != "sources"})
        overrides["source_roots"] = own.allowed_roots
    own_places = corpus_overrides(corpus, Settings.model_fields, load_settings(corpus="")) if corpus else {}
    overrides = own_places | overrides | {"corpus": corpus}
    for name, text in [*os.environ.items(), *((name.upper(), as_variable(value)) for name, value in overrides.items())]:
        _remember(name, text)
    var_dir = absolute(overrides.get("var_dir") or given.get("HEAL_VAR_DIR") or "var")
    secrets = SECRETS_FOLDER if SECRETS_FOLDER.is_dir() else None  # a folder that is missing would be warned of
    try:
        settings = Settings(  # type: ignore[call-arg]
            _env_file=(var_dir / "local.env", ENV_FILE), _secrets_dir=secrets, **overrides
        )
    except ValidationError as error:
        lines = [
            (f"HEAL_{item['loc'][0]}".upper() + _shown(item) + ": " if item["loc"] else "")
            + item["msg"].removeprefix("Value error, ")
            for item in error.errors()
        ]
        names = tuple(dict.fromkeys(str(item["loc"][0]) if item["loc"] else "sources" for item in error.errors()))
        raise SettingsError("settings are wrong: " + "; ".join(lines), names) from None
    for name in _SECRETS:
        _remember(name.upper(), as_variable(getattr(settings, name)))
    return settings


def load_usable_settings(**overrides: Any) -> Settings:
    """Read the settings with the default in place of each wrong value, to record that they are wrong."""
    try:
        return load_settings(**overrides)
    except SettingsError as error:
        names = {*error.names, *(["source_roots"] if "sources" in error.names else [])}
        usable = {name: Settings.model_fields[name].default for name in names}
        # An empty file, because without a name the one in the working folder would be read again.
        empty = {"sources_file": Path(os.devnull)} if "sources" in names else {}
        return load_settings(**overrides | usable | empty)


def _remember(variable: str, value: str) -> None:
    if re.search("(_URL|_CONN)$", variable):
        remember_url(value)
    elif re.search("(PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY|SECRET_KEY|FERNET_KEY)$", variable):
        remember(value)


def _shown(item: Mapping[str, Any]) -> str:
    """The wrong value of a setting; empty for one that may have a secret in it."""
    return "" if item["loc"][0] in _SECRETS or "@" in str(item["input"]) else f"={item['input']!r}"


def unknown_variables(var_dir: Path) -> list[str]:
    """A sentence for each variable ``HEAL_...`` of environment and files that is no setting."""
    known = [name.upper() for name in Settings.model_fields]
    given = (name.upper() for name in (*os.environ, *variables_in(var_dir / "local.env"), *variables_in(ENV_FILE)))
    names = {name.removeprefix("HEAL_") for name in given if name.startswith("HEAL_")}
    sentences = []
    for name in sorted(names - set(known)):
        meant = nearest_name(name, known)
        cure = f"did you mean HEAL_{meant}?" if meant else "docs/settings.md lists them"
        sentences.append(f"HEAL_{name} is set, and is no setting; {cure}")
    return sentences


def as_variable(value: Any) -> str:
    """A setting's value as an environment variable has it, a secret in clear."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return join_specs(value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
