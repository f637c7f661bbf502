"""Command that prints the settings, or ``docs/settings.md``, which describes them."""

from inspect import getdoc
from typing import Annotated

import typer
from pydantic import SecretStr

from heal_tasks.cli.base import app, print_line, settings_for_command
from heal_tasks.core.settings import GROUPS, Settings, as_variable

HEAD = """\
# Settings

<!-- Written by `python -m heal_tasks settings --markdown`; the texts are in heal_tasks/core. -->

Every setting is an environment variable `HEAL_<NAME>`. A value comes from, in this order:

1. the trigger form of the DAG, for the four settings that it shows (route, sources, sample size, dry run), if the field
   differs from the form's default; a field left at its default (`auto`, empty, 0, off) does not override anything;
2. the process environment;
3. the file `.env` in the working folder;
4. the file `local.env` that `up` writes into the state folder;
5. a secret of Docker or Kubernetes, the file `/run/secrets/heal_<name>`, for example `heal_database_url`;
6. in Airflow's tasks and pages, a connection, for database, S3 and language model ([deploy.md](deploy.md#connections));
7. the default.

The first of 2 to 5 that has the variable decides, even if its value there is empty. An empty value means unset, so
that 6 and 7 apply: an empty `HEAL_MODEL=` in the environment hides the values in `.env`, in `local.env` and in the
secret, and the default holds. An empty one in `.env` hides those in `local.env` and in the secret, and so on. To use
the value of a later place, remove the variable from the earlier ones (`unset HEAL_MODEL`).

Two exceptions: an empty `HEAL_SCHEDULE` or `HEAL_MAINTAIN_SCHEDULE` means no schedule, and an empty value in the file
of a [corpus](deploy.md#several-corpora) is ignored.

A wrong value stops the command with the name, the value and what is allowed.
`python -m heal_tasks settings` prints the values in effect; `python -m heal_tasks doctor` checks what they point to.

`make` takes settings as arguments: `make demo HEAL_DEMO_DOCUMENTS=300`. In the Docker deployment they go into
`docker/heal.env`, see [deploy.md](deploy.md#docker).
"""


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md instead.")] = False,
) -> None:
    """Print every setting with its value; secrets are masked."""
    if markdown:
        typer.echo(markdown_page(), nl=False)
        return
    values = settings_for_command()
    for name in Settings.model_fields:
        value = getattr(values, name)
        print_line(f"HEAL_{name.upper()}={'***' if isinstance(value, SecretStr) else as_variable(value)}")


def markdown_page() -> str:
    """The text of ``docs/settings.md``: a section per group, a row per setting."""
    parts = [HEAD]
    for group in GROUPS:
        title, _, advice = (getdoc(group) or "").partition("\n\n")
        parts.append(f"## {title.rstrip('.')}\n\n{advice}\n\n| setting | default | meaning |\n|---|---|---|")
        for name, field in group.model_fields.items():
            default = "unset" if field.default in (None, "", ()) else f"`{as_variable(field.default)}`"
            parts.append(f"| `HEAL_{name.upper()}` | {default} | {field.description} |")
        parts.append("")
    return "\n".join(parts)
