"""Secrets of the local stack, made once and kept in files that only their owner can read."""

import base64
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from heal_tasks.core.errors import StepError

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
    write_private(var_dir / "passwords.json", json.dumps({UI_USER: keys.ui_password}))
    return keys


def write_private(path: Path, text: str) -> None:
    """Replace a file by one of mode 600; at no moment is it half written or readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    Path(file.name).rename(path)
