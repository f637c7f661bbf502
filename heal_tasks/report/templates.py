"""The templates of the HTML pages: one environment, one style, one frame; every text is escaped."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heal_tasks.core.log import format_duration


def render_template(name: str, /, **values: object) -> str:
    """Render a template of this folder."""
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(duration=format_duration, quoted=_quoted, minute=_minute, day=_day)
    return environment


def _quoted(text: str) -> str:
    """A text as one part of a URL's path or one value of its query."""
    return quote(text, safe="")


def _minute(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M}"


def _day(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d}"
