"""The console of every command: live in a terminal, wide enough for tables in a pipe."""

from rich.console import Console

PLAIN_WIDTH = 130


def plain_or_live_console() -> Console:
    """Standard output, wide enough for the report's tables where it is not a terminal."""
    # Rich assumes 80 columns there.
    console = Console(emoji=False)
    return console if console.is_terminal else Console(emoji=False, width=PLAIN_WIDTH)


def print_line(console: Console, text: str) -> None:
    """Print a line as it is: brackets are no markup, numbers no colours, and a long one is not broken."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
