"""Text that is printed, logged or recorded: without terminal control sequences, and without secrets.

What models, servers, data files and file names say must not drive a terminal, also not the one on which somebody
reads a log later. What the environment keeps secret must not reach a file that people send to one another.
"""

from __future__ import annotations

import os
import re

SHORTEST_SECRET = 8  # characters; a shorter value is no secret, and to blot it out would garble everything

# Whole escape sequences first (CSI, OSC and its relatives up to BEL or ST on the same line, two-byte ones), so that
# their letters go too; then lone control characters but newline and tab; then marks that reverse the direction of a
# line. What has no end is text: else one name could hide all that comes after it.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]?|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SECRET = re.compile(r"\b(hf_|sk-|api_|ghp_)[A-Za-z0-9_-]{16,}")
_SECRET_NAMES = re.compile(r"(TOKEN|PASSWORD|PASSWD|_KEY)$|SECRET|API_?KEY")
_kept: set[str] = set()  # keys that this process uses, whatever their variables are called


def clean(text: str) -> str:
    """The text without terminal control sequences. What a model or a data file says must not drive a terminal."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))


def keep_secret(value: str) -> None:
    """From now on `redact` takes this value out."""
    if len(value) >= SHORTEST_SECRET:
        _kept.add(value)


def redact(text: str) -> str:
    """Without secrets: what `keep_secret` was told, values of environment variables that are named like one, and
    what looks like a token."""
    named = {value for name, value in os.environ.items() if _SECRET_NAMES.search(name.upper())}
    for value in sorted(_kept | named, key=len, reverse=True):  # a longer one may hold a shorter one
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return _SECRET.sub("***", text)
