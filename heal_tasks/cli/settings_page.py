"""Settings as text: one value for the terminal, and the whole of ``docs/settings.md``."""

from inspect import getdoc
from typing import Any

from pydantic import SecretStr

from heal_tasks.core.setting_groups import GROUPS

HEAD = """\
# Settings

<!-- Written by `python -m heal_tasks settings --markdown`; the texts are in heal_tasks/core/setting_groups.py. -->

Every setting is an environment variable `HEAL_<NAME>`. A value comes from, in this order:

1. the trigger form of the DAG, for the four settings that it shows (route, sources, sample size, dry run);
2. the process environment;
3. the file `.env` in the working folder;
4. the file `local.env` that `make up` writes into the state folder;
5. the default.

An empty value counts as unset. A wrong value stops the command with the name, the value and what is allowed.
`python -m heal_tasks settings` prints the values in effect; `python -m heal_tasks doctor` checks what they point to.

`make` takes settings as arguments: `make demo HEAL_DEMO_DOCUMENTS=300`. In the Docker deployment they go into
`docker/heal.env`, see [operations.md](operations.md).
"""


def shown(value: Any) -> str:
    """A value as it is written in an environment variable; a secret is masked."""
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, tuple) else str(value)


def markdown_page() -> str:
    """The text of ``docs/settings.md``: a section per group, a row per setting."""
    parts = [HEAD]
    for group in GROUPS:
        title, _, advice = (getdoc(group) or "").partition("\n\n")
        rows = [
            f"| `HEAL_{name.upper()}` | {f'`{default}`' if (default := shown(field.default)) else 'unset'} "
            f"| {field.description} |"
            for name, field in group.model_fields.items()
        ]
        parts.append("\n".join([f"## {title.rstrip('.')}", "", advice, "", "| setting | default | meaning |",
                                "|---|---|---|", *rows, ""]))  # fmt: skip
    return "\n".join(parts)
