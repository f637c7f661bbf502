"""Variables of the environment that are no settings: secrets that a file names, and those of child processes."""

import os
import re
from pathlib import Path

from dotenv import dotenv_values

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.redaction import remember, remember_url

ENV_FILE = Path(".env")
"""File of variables in the working folder."""
SECRETS_FOLDER = Path("/run/secrets")
"""Folder of the secrets of a container, one file each, by Docker and Kubernetes."""


def variables_in(file: Path) -> dict[str, str]:
    """The variables of a file such as ``.env``; none where it is missing, SettingsError where it cannot be read."""
    try:
        return {name: value or "" for name, value in dotenv_values(file).items()}
    except UnicodeDecodeError:
        raise SettingsError(f"{file.resolve()} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{file.resolve()} cannot be read ({error.strerror}); correct its rights") from None


def absolute(path: str | Path) -> Path:
    """The absolute path, with ``~`` at its beginning as the home folder."""
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:  # an unknown user's home, a circle of links
        raise SettingsError(f"folder {str(path)!r} cannot be resolved ({error}); write another path") from None


def secret_variable(name: str) -> str | None:
    """The value of a variable that ``sources.toml`` names, redacted from now on; None if it is set nowhere.

    It comes from the environment, ``.env`` in the working folder, or the container's secret of that name in lower case.
    """
    file = SECRETS_FOLDER / name.lower()
    value = os.environ.get(name) or variables_in(ENV_FILE).get(name)
    if not value and "/" not in name and file.is_file():
        value = file.read_text(encoding="utf-8").strip()
    for part in filter(None, (value, *re.findall(r"(?:Key|Signature)=([^;]+)", value or ""))):
        remember_url(part) if "://" in part else remember(part)
    return value or None


def environment_of(*names: str) -> dict[str, str]:
    """The named variables of the process environment, for a process that must not see the others."""
    return {name: os.environ[name] for name in names if name in os.environ}


def child_environment(**values: str) -> dict[str, str]:
    """The environment for a child process: this process's own, with ``values`` on top."""
    return {**os.environ, **values}
