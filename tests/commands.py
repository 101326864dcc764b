"""Calls a command as its user does."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from neuroseg.cli import app


def call(*arguments: object, code: int = 0) -> str:
    """What a command prints, on one line; it has to end with an exit code."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return re.sub(r"\s+", " ", result.output)
