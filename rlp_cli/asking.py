"""Questions. Without a terminal nobody can answer, so the command asks for --yes instead of guessing."""

from __future__ import annotations

import sys

import typer

from rlp_cli.render import Output
from rlp_engine.errors import ConfigError


def confirmed(output: Output, question: str, *, yes: bool) -> bool:
    """True after --yes or a `y`.

    Raises:
        ConfigError: when there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty() or output.as_json:
        raise ConfigError(f"{question} Not without your word", mend="add --yes, or run it in a terminal to be asked")
    return typer.confirm(question, err=True)
