"""Variables of the environment that are no settings: secrets that a file names, and those of child processes."""

import os
import re
from pathlib import Path

from dotenv import dotenv_values

from heal_tasks.core.redaction import remember, remember_url

SECRETS_FOLDER = Path("/run/secrets")
"""Folder of the secrets of a container, one file each, by Docker and Kubernetes."""


def secret_variable(name: str) -> str | None:
    """The value of a variable that ``sources.toml`` names, redacted from now on; None if it is set nowhere.

    It comes from the environment, ``.env`` in the working folder, or the container's secret of that name in lower case.
    """
    file = SECRETS_FOLDER / name.lower()
    value = os.environ.get(name) or dotenv_values(".env").get(name)
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
