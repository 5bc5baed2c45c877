"""Every error that a user can cause, and the exit code it ends with.

    RlpError                      1   (never raised itself; the base of the tree)
    ├── ConfigError               3   config, or a file that it names and that is missing
    ├── DataError                 4   a row, a file or a dataset that is not what it should be
    ├── ModelError                5   a model, a tokenizer, a dependency or the hub
    │   └── ServerError           5   a server that refuses, cannot be reached, or answers what it should not
    ├── ResourceError             6   out of memory or disk
    ├── HealthError               7   NaN, or an alarm that the config says should stop the run
    ├── RunLockedError            8   another process holds the run directory
    ├── CorruptArtifactError      9   an artifact differs from what its stage.json recorded
    ├── WorkPending              10   `rlp status --check`: not everything is done
    ├── LostRankError           any   under a launcher: the code of the rank that failed; 128 + signal if it was killed
    └── Interrupted       130 / 143   Ctrl-C / SIGTERM, after the checkpoint was written; 129 SIGHUP

A message has three parts: what happened, where, and how to mend it. `rlp_cli.app` prints them
without a traceback; anything else that reaches it is our bug (exit code 1).
"""

from __future__ import annotations

import signal


class RlpError(Exception):
    """What went wrong, where it is, and how to mend it, in words for a user."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "", found: str = "", want: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.found = found
        self.want = want
        self.mend = mend

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) of every part that was given, in the order they are shown."""
        parts = [("where", self.where), ("found", self.found), ("want", self.want), ("mend", self.mend)]
        return [(label, text) for label, text in parts if text]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in self.lines())])


class ConfigError(RlpError):
    """A key, a value, or a file that the config names. `problems` holds all of them, not the first."""

    exit_code = 3

    def __init__(self, what: str, *, problems: list[RlpError] | None = None, **parts: str) -> None:
        super().__init__(what, **parts)
        self.problems = problems or []


class DataError(RlpError):
    exit_code = 4


class ModelError(RlpError):
    exit_code = 5


class ServerError(ModelError):
    pass


class ResourceError(RlpError):
    exit_code = 6


class HealthError(RlpError):
    exit_code = 7


class RunLockedError(RlpError):
    exit_code = 8


class CorruptArtifactError(RlpError):
    exit_code = 9


class WorkPending(RlpError):
    exit_code = 10


class LostRankError(RlpError):
    """Another rank of the launch has ended. `exit_code` is that rank's; 137 (SIGKILL) when it left no reason."""

    def __init__(self, what: str, *, exit_code: int = 128 + signal.SIGKILL, **parts: str) -> None:
        super().__init__(what, **parts)
        self.exit_code = exit_code


class Interrupted(RlpError):
    """A signal asked the run to stop, and it stopped at a point it can go on from."""

    def __init__(self, signal_number: int, what: str, **parts: str) -> None:
        super().__init__(what, **parts)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
