"""How the torture ends a process, and what it then has to see. Lives of one process are forked: nothing is imported."""

from __future__ import annotations

import importlib
import os
import pkgutil
import random
import signal
import sys
import time
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_run import rlp_environment

FAULTS = ("write", "fsync", "before", "after", "full")  # rlp_engine/run/faults.py
LEFT_ALONE = "left alone"
_WEIGHTS = {"instant": 8, "write": 5, "fsync": 2, "before": 4, "after": 4, "full": 5, "SIGTERM": 2, "SIGINT": 2}
_WEIGHTS["SIGINT twice"] = 2
_ALLOWED = {"full": {6}, "SIGTERM": {143, -signal.SIGTERM}, "SIGINT": {130}, "SIGINT twice": {130}}
_LAST_POINT = 200  # of one kind within one process; a number behind the last point lets the process end well
_MEAN_SECONDS = 0.4  # of life, from the first word on, of those that are ended by the clock


class Broken(Exception):
    """A promise was not kept."""


@dataclass(frozen=True)
class End:
    """Of one life of `rlp`."""

    way: str
    code: int  # -N after signal N
    allowed: Collection[int]  # besides 0, which says that the run came to its end


def some_point(dice: random.Random) -> int:
    """Few points are far from the start, most are near to it."""
    return round(_LAST_POINT ** dice.random())


class OneProcess:
    """Lives of `rlp` in a process that has imported everything."""

    def __init__(self, said: Path) -> None:
        """`said`: the file that gets what the last one printed."""
        self.said = said
        import_everything()

    def measured(self) -> dict[str, object]:
        """For the line of results."""
        return {}

    def live(self, words: Sequence[str], dice: random.Random, *, is_left_alone: bool) -> End:
        """Start `rlp` with these words and end it in some way."""
        way = LEFT_ALONE if is_left_alone else dice.choices([*_WEIGHTS], [*_WEIGHTS.values()])[0]
        point, seconds = some_point(dice), dice.expovariate(1 / _MEAN_SECONDS)
        child = start(words, self.said, f"{way}:{point}" if way in FAULTS else "")
        code = end(child, self.said, way, seconds)
        return End(way, code, _ALLOWED.get(way, {-signal.SIGKILL}) if way != LEFT_ALONE else ())


def import_everything() -> None:
    """So that the children need not. Nothing is computed here: threads would not survive a fork."""
    import rlp_cli.app  # noqa: F401  what a child calls

    for name in ("rlp_engine.stages", "rlp_engine.report", "rlp_engine.training", "rlp_engine.models"):
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "deepspeed":
                importlib.import_module(f"{name}.{module.name}")


def start(words: Sequence[str], said: Path, fault: str = "") -> int:
    """The pid of a new `rlp` with these words, whose output goes to the file."""
    sys.stdout.flush()
    said.write_bytes(b"")
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.environ.update(rlp_environment())
        from rlp_cli.app import main
        from rlp_engine.run.faults import arm

        arm(fault)
        main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def end(child: int, said: Path, way: str, seconds: float) -> int:
    """Let the child live that long after its first word, then end it that way. Its exit code, -N after signal N."""
    if way in ("instant", "SIGTERM", "SIGINT", "SIGINT twice"):
        while said.stat().st_size == 0 and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.005)
        time.sleep(seconds)
        number = {"instant": signal.SIGKILL, "SIGTERM": signal.SIGTERM}.get(way, signal.SIGINT)
        os.kill(child, number)  # a corpse that nobody has waited for takes it in silence
        if way == "SIGINT twice":
            time.sleep(0.02)
            os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
