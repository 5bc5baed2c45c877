"""Why each rank of a launch ended: logs/attempt_N/rank_K.exit.json.

Launchers return 1 or 247 for everything. So every rank leaves a file, and whoever started them finds the first
cause in it: the ranks that ended only because they lost another one are consequences.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rlp_engine import errors
from rlp_engine.errors import Interrupted, LostRankError, RlpError
from rlp_engine.run.atomic import write_json
from rlp_engine.safe_text import redact

CAUSE_SECONDS = 5.0  # how long to look for the file of the rank that ended first

# What a rank's call says when the rank at the other end has gone. torch has no class for it with gloo.
_LOST_KINDS = {"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"}
_LOST_WORDS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket closed",
    "nccl",
    "processgroupgloo",
    "timed out waiting",
)


@dataclass(frozen=True)
class ExitReason:
    """How a rank ended."""

    rank: int
    exit_code: int  # of rlp (errors.py)
    kind: str = ""  # the error's class; "" when it ended well
    what: str = ""
    parts: dict[str, str] = field(default_factory=dict)  # where, found, want, mend
    is_consequence: bool = False  # another rank ended first
    trace: str = ""  # of what nobody foresaw
    time: float = 0.0  # seconds since 1970

    def write(self, folder: Path) -> None:
        write_json(folder / f"rank_{self.rank}.exit.json", asdict(self))

    def error(self) -> RlpError:
        """The same error as the rank met, as a user should see it. Not for what nobody foresaw."""
        is_everybodys = self.kind == "HealthError"  # every rank raises it, and any may be the first to tell
        who = f"rank {self.rank}: " if self.rank and not is_everybodys else ""
        if self.kind == "Interrupted":
            return Interrupted(self.exit_code - 128, self.what, **self.parts)
        kind = getattr(errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, RlpError) and kind is not LostRankError:
            return kind(who + self.what, **self.parts)
        return LostRankError(who + self.what, exit_code=self.exit_code, **self.parts)

    @property
    def is_bug(self) -> bool:
        return self.exit_code == 1 and bool(self.trace) and not self.is_consequence


def reason_of(rank: int, error: BaseException | None) -> ExitReason:
    """The reason that an exception gives, without secrets; without an exception, or after exit code 0, all is well."""
    reason = _reason_of(rank, error)
    parts = {label: redact(text) for label, text in reason.parts.items()}
    return replace(reason, what=redact(reason.what), parts=parts, trace=redact(reason.trace))


def _reason_of(rank: int, error: BaseException | None) -> ExitReason:
    now = time.time()
    if error is None:
        return ExitReason(rank, 0, time=now)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return ExitReason(rank, code, "" if code == 0 else "SystemExit", f"ended with code {code}", time=now)
    if isinstance(error, RlpError):
        lost = isinstance(error, LostRankError)
        parts = dict(error.lines())
        problems: Sequence[RlpError] = getattr(error, "problems", ())
        what = "; ".join(one.what for one in problems) if problems else error.what
        return ExitReason(rank, error.exit_code, type(error).__name__, what, parts, lost, time=now)
    if isinstance(error, KeyboardInterrupt):
        return ExitReason(rank, 130, "Interrupted", "stopped by Ctrl-C", time=now)
    what = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return ExitReason(rank, 1, "bug", what, {}, is_lost_rank(error), trace, now)


def is_lost_rank(error: BaseException) -> bool:
    """Did this call fail because the rank at its other end has gone?"""
    if type(error).__name__ in _LOST_KINDS:
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, ConnectionError)) and any(word in text for word in _LOST_WORDS)


def read_reasons(folder: Path) -> list[ExitReason]:
    """Of every rank that left one, by rank."""
    found = []
    for path in folder.glob("rank_*.exit.json"):
        values: dict[str, Any] = json.loads(path.read_bytes())
        found.append(ExitReason(**values))
    return sorted(found, key=lambda reason: reason.rank)


def first_cause(reasons: Sequence[ExitReason]) -> ExitReason | None:
    """The failure that explains the others: the earliest that is no consequence; a stop that was asked for comes
    second, because launchers send SIGTERM to the ranks that are left. None when there is no such thing."""
    causes = [reason for reason in reasons if reason.exit_code and not reason.is_consequence]
    return min(causes, key=lambda reason: (reason.kind == "Interrupted", reason.time), default=None)


def wait_for_cause(folder: Path, own_rank: int, seconds: float = CAUSE_SECONDS) -> ExitReason | None:
    """The first cause among the other ranks, which may be just about to write it. A killed rank never does."""
    deadline = time.monotonic() + seconds
    while True:
        cause = first_cause([reason for reason in read_reasons(folder) if reason.rank != own_rank])
        if cause or time.monotonic() > deadline:
            return cause
        time.sleep(0.1)


class LostRanksInWords:
    """In its `with` block, the error of a call whose other end has gone becomes a LostRankError with the cause."""

    def __init__(self, folder: Path | None, own_rank: int) -> None:
        """`folder`: where the reasons lie; None in a world of one."""
        self._folder = folder
        self._own_rank = own_rank

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._folder is None or error is None or isinstance(error, RlpError) or not is_lost_rank(error):
            return
        cause = wait_for_cause(self._folder, self._own_rank)
        if cause is None:
            raise LostRankError(
                "another rank ended without a word: it was killed, or its machine is gone",
                where=f"rank {self._own_rank} noticed it: {_first_line(error)}",
                mend="run again: it continues. Out of memory is the usual reason: look at the machine's log",
            ) from error
        parts = {"where": str(self._folder / f"rank_{cause.rank}.exit.json"), **cause.parts}
        raise LostRankError(f"rank {cause.rank}: {cause.what}", exit_code=cause.exit_code, **parts) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
