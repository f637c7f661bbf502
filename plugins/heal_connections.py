"""Airflow's Connections as settings: database, S3 and models' endpoints, where no variable sets them.

They are looked up inside tasks, triggers and requests, in every secrets backend that Airflow has; never when a DAG file
is parsed. A connection is used as a whole or not at all: an endpoint of one place with the key of another would send
the key to a stranger.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from heal_tasks.core.artifacts import ArtifactStore
    from heal_tasks.core.settings import Settings
    from heal_tasks.store.db import Connection


def connected_settings(
    tell: Callable[[str], None] | None = None,
    load: "Callable[..., Settings] | None" = None,
    parts: Collection[str] = ("database", "s3", "llm", "embed"),
    **overrides: Any,
) -> "Settings":
    """The settings of the environment, completed by Airflow's connections.

    Args:
        tell: receives one sentence that says where database, S3 and models come from.
        load: reads the environment's; None is ``load_settings``.
        parts: connections to look up; each costs a request to the API server, and may be wrong.
        overrides: settings that win over the environment.

    Raises:
        SettingsError: a setting or a connection is wrong; the message says what to do.
    """
    from heal_tasks.core.settings import load_settings

    load = load or load_settings
    settings = load(**overrides)
    values: dict[str, Any] = {}
    origins = []
    for part in parts:
        origin, found = _LOOKUPS[part](settings)
        origins.append(origin)
        values |= found
    if tell:
        tell(f"Settings: {'; '.join(filter(None, origins))}")
    return load(**overrides, **values) if values else settings


def connect_store(*, autocommit: bool = False) -> "Connection":
    """A connection to the store, at the address of the settings or of the connection ``heal_postgres``."""
    from heal_tasks.store.db import connect

    return connect(connected_settings(parts=["database"]).require_database_url(), autocommit=autocommit)


def connected_artifacts() -> "ArtifactStore":
    """The artifacts, with the credentials of the environment or of a connection to S3."""
    from heal_tasks.core.artifacts import artifact_store

    return artifact_store(connected_settings(parts=["s3"]))


Found = tuple[str, dict[str, Any]]
"""The origin of a part of the settings in words, and the values that a connection gives."""


def _database_of(settings: "Settings") -> Found:
    if "database_url" in settings.model_fields_set:
        return "the database from HEAL_DATABASE_URL, which wins over a connection heal_postgres", {}
    from heal_tasks.core.corpora import database_beside

    conn = _connection("heal_postgres")
    found = _database(conn) if conn else {}
    if found and settings.corpus:
        found["database_url"] = database_beside(found["database_url"], settings.corpus)
    return _origin("the database", conn), found


def _s3_of(settings: "Settings") -> Found:
    from heal_tasks.core.environment import environment_of

    places = [settings.artifacts_uri, *map(settings.place_of, settings.sources)]
    if not any(place.startswith("s3://") for place in places):
        return "S3 is not used", {}
    given = "s3_endpoint_url" in settings.model_fields_set
    if given or any(environment_of("AWS_ACCESS_KEY_ID", "AWS_PROFILE").values()):
        return "S3 from the environment, which wins over a connection heal_s3 or aws_default", {}
    conn = _connection("heal_s3") or _connection("aws_default")
    return _origin("S3", conn), _s3(conn) if conn else {}


def _llm_of(settings: "Settings") -> Found:
    return _model_of(settings, "the language model", "llm", model="llm_model")


def _embed_of(settings: "Settings") -> Found:
    from heal_tasks.core.models import api_model

    return _model_of(settings, "the embedding model", "embed") if api_model(settings.model) else ("", {})


def _model_of(settings: "Settings", subject: str, prefix: str, **names: str) -> Found:
    """Address and key of a model's endpoint, and other fields by the names of their settings."""
    names |= {"base_url": f"{prefix}_base_url", "api_key": f"{prefix}_api_key"}
    given = settings.model_fields_set
    if given & {names["base_url"], names["api_key"]}:
        return f"{subject} from the environment, which wins over a connection heal_{prefix}", {}
    conn = _connection(f"heal_{prefix}")
    found = _endpoint(conn, **names) if conn else {}
    return _origin(subject, conn), {name: found[name] for name in found.keys() - given}


_LOOKUPS = {"database": _database_of, "s3": _s3_of, "llm": _llm_of, "embed": _embed_of}


def _origin(subject: str, conn: Any) -> str:
    return f"{subject} from the connection {conn.conn_id}" if conn else f"{subject} from no connection"


def _connection(conn_id: str) -> Any:
    """A connection by its id, its password masked in Airflow's logs; None if no secrets backend has it."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    from heal_tasks.core.environment import environment_of
    from heal_tasks.core.errors import SettingsError

    try:
        return Connection.get(conn_id)
    except AirflowNotFoundException:
        # Airflow goes on to the next backend without a word.
        if variable := next(iter(environment_of(f"AIRFLOW_CONN_{conn_id.upper()}")), ""):
            raise SettingsError(
                f"{variable} is set, and Airflow cannot read it (it is not shown, because it may have a password); "
                "write it as JSON or as a URI with special characters as %40 for @, %2F for /"
            ) from None
        return None


def _database(conn: Any) -> dict[str, Any]:
    from psycopg import pq

    extra = _checked(conn, ("postgres",), {option.keyword.decode() for option in pq.Conninfo.get_defaults()})
    _need(conn, host=conn.host, login=conn.login, schema=conn.schema)
    host = f"[{conn.host}]" if ":" in conn.host else quote(conn.host, safe="")
    user = quote(conn.login, safe="") + (f":{quote(conn.password, safe='')}" if conn.password else "")
    port = f":{conn.port}" if conn.port else ""
    query = f"?{urlencode(extra, quote_via=quote)}" if extra else ""
    return {"database_url": f"postgresql://{user}@{host}{port}/{quote(conn.schema, safe='')}{query}"}


def _s3(conn: Any) -> dict[str, Any]:
    """Give boto3 the credentials for this process; only the endpoint is a setting."""
    import boto3

    from heal_tasks.core.redaction import remember

    extra = _checked(conn, ("aws",), {"region_name", "endpoint_url", "aws_session_token", "profile_name"})
    if conn.login or conn.password:
        _need(conn, login=conn.login, password=conn.password)
    endpoint = extra.pop("endpoint_url", None)
    for secret in filter(None, (conn.password, extra.get("aws_session_token"))):
        remember(secret)
    boto3.setup_default_session(aws_access_key_id=conn.login, aws_secret_access_key=conn.password, **extra)
    return {"s3_endpoint_url": endpoint} if endpoint else {}


def _endpoint(conn: Any, **names: str) -> dict[str, Any]:
    """Address, key and extra fields of an endpoint, by the names of their settings."""
    extra = _checked(conn, ("openai", "http"), names.keys() - {"base_url", "api_key"})
    if not conn.password:
        _need(conn, host=conn.host)
    if conn.host and "://" not in conn.host:
        raise _wrong(conn, "has a host that is no URL; write the endpoint's, such as http://HOST:PORT/v1, as the host")
    values = {"base_url": conn.host, "api_key": conn.password, **extra}
    return {names[name]: value for name, value in values.items() if value}


def _checked(conn: Any, types: tuple[str, ...], names: set[str]) -> dict[str, Any]:
    """The fields of ``extra``; SettingsError for another type, and for a field that would be ignored."""
    types = (*types, "generic")
    if conn.conn_type not in types:
        raise _wrong(conn, f"is of type {conn.conn_type!r}; make it one of type {' or '.join(types)}")
    extra = conn.extra_dejson
    if not isinstance(extra, dict) or extra.keys() - names:
        wrong = ", ".join(sorted(extra.keys() - names)) if isinstance(extra, dict) else "no object"
        raise _wrong(
            conn, f"has an extra that is not read ({wrong}); remove it, or take {', '.join(sorted(names)) or 'none'}"
        )
    return dict(extra)


def _need(conn: Any, **fields: str | None) -> None:
    if missing := [name for name, value in fields.items() if not value]:
        raise _wrong(conn, f"has no {' and no '.join(missing)}; add it in Airflow")


def _wrong(conn: Any, what: str) -> Exception:
    from heal_tasks.core.errors import SettingsError

    return SettingsError(f"the Airflow connection {conn.conn_id} {what}")
