"""The environment and the secrets of Airflow's components, with the reason beside each variable.

Settings of this project travel as ``HEAL_*`` variables, so that a task has the settings of the command that started the
components, whatever its working folder.
"""

import base64
import json
import os
import secrets
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import heal_tasks
from heal_tasks.core.environment import child_environment
from heal_tasks.core.errors import StepError
from heal_tasks.core.models import packaged_folder
from heal_tasks.core.redaction import remember
from heal_tasks.core.settings import Settings, as_variable
from heal_tasks.local.processes import write_private

REPOSITORY = Path(heal_tasks.__file__).parents[1]

# Settings that only the launcher itself reads: changing one is no reason to restart Airflow.
LAUNCHER_ONLY = {"var_dir", "database_url", "airflow_port", "demo_documents"}
UI_USER = "admin"


@dataclass(frozen=True, slots=True)
class Keys:
    """Secrets that Airflow's components share, and the password of the UI's user."""

    jwt: str  # signs the tokens of the API and of tasks; at least 64 bytes, or Airflow warns
    fernet: str  # encrypts connections in Airflow's database
    api_secret: str  # signs the UI's sessions
    ui_password: str


def load_keys(var_dir: Path) -> Keys:
    """Read the keys from ``secrets.json`` in the state folder, and make them first where there are none."""
    path = var_dir / "secrets.json"
    if not path.exists():
        fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        keys = Keys(secrets.token_hex(48), fernet, secrets.token_hex(32), secrets.token_urlsafe(12))
        write_private(path, json.dumps(asdict(keys)))
    try:
        keys = Keys(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise StepError(
            f"{path} cannot be read as secrets ({error}); delete it to have new ones made (Airflow's stored "
            "connections, if you made any, then have to be entered again)"
        ) from None
    for secret in astuple(keys):
        remember(secret)
    write_private(var_dir / "passwords.json", json.dumps({UI_USER: keys.ui_password}))
    return keys


def airflow_settings(
    settings: Settings, keys: Keys, port: int, metadata_url: str, database_url: str, dags: Path
) -> dict[str, str]:
    """Variables for Airflow's commands on this stack; ``metadata_url`` is Airflow's own database."""
    base_url = f"http://127.0.0.1:{port}"
    cores, inherited = os.cpu_count() or 1, child_environment()
    values = {
        "AIRFLOW_HOME": str(settings.var_dir / "airflow"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [inherited.get("PYTHONPATH", "")])]),
        "PYTHONUNBUFFERED": "1",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # psycopg 3; Airflow picks asyncpg for its asynchronous side by itself.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata_url.replace("postgresql://", "postgresql+psycopg://", 1),
        # Airflow's default is every interface.
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": base_url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base_url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # The default forks 32 workers in advance.
        "AIRFLOW__CORE__PARALLELISM": str(settings.airflow_parallelism),
        # Measured: with the default of 5 s a worker's slot stays taken for 5.4 s after each task, with this 1.3 s.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # Measured: a chained step starts .5 s after the one before it instead of 1.15 s.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        # A scheduler takes its predecessor for dead after 30 s, but looks for the tasks it left behind every 300 s.
        # Measured: with the default, a run that `make down up` had interrupted went on after five minutes.
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
        # Time until a task counts as failed whose process vanished under a running scheduler; the default is 300 s.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
        # A new or changed DAG file is seen within seconds.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        "AIRFLOW__API_AUTH__JWT_SECRET": keys.jwt,
        "AIRFLOW__API__SECRET_KEY": keys.api_secret,
        "AIRFLOW__CORE__FERNET_KEY": keys.fernet,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{UI_USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(settings.var_dir / "passwords.json"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": inherited.get("OMP_NUM_THREADS", str(min(cores, max(2, cores // 2)))),
        **setting_variables(settings),
        "HEAL_VAR_DIR": str(settings.var_dir),
        "HEAL_DATABASE_URL": database_url,
    }
    if packaged_folder(settings.model) or Path(settings.model).is_dir():
        # A model on disk needs no hub; without this every load asks the hub for a newer version.
        values["HF_HUB_OFFLINE"] = "1"
    return values


def setting_variables(settings: Settings) -> dict[str, str]:
    """The settings that are not at their default, as ``HEAL_*`` variables."""
    # Default sources are not passed on, so that a table that is added to sources.toml counts at once.
    default = {"sources"} if settings.reads_default_sources else set()
    names = sorted(settings.model_fields_set - LAUNCHER_ONLY - default)
    return {f"HEAL_{name.upper()}": as_variable(getattr(settings, name)) for name in names}
