"""Commands in this process: all that `python -m heal_tasks` does, but for a new process with its imports."""

import contextlib
import io
import sys
from importlib import import_module

import pytest

from heal_tasks.cli.base import main

import_module("heal_tasks.cli.app")  # adds all commands


def run_main(*arguments: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command with these variables."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["heal_tasks", *arguments])
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()
