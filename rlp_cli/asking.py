"""Questions. Without a terminal nobody can answer, so the command asks for --yes instead of guessing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import typer

from rlp_cli.render import Output
from rlp_engine.errors import ConfigError
from rlp_engine.safe_text import clean


def confirmed(output: Output, question: str, *, yes: bool) -> bool:
    """True after --yes or a `y`.

    Raises:
        ConfigError: when there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty() or output.as_json:
        what = f"not done without your word: {question.rstrip('?')}"
        raise ConfigError(what, mend="add --yes, or run it in a terminal to be asked")
    return typer.confirm(clean(question), err=True)


def this_command(*, without: str = "--dry-run", plus: Sequence[str] = ()) -> str:
    """The command line that we were called with, for a shell, but for one word."""
    return shlex.join(["rlp", *(word for word in sys.argv[1:] if word != without), *plus])
