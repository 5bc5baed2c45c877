"""Lives of `rlp run` in two ranks, for torture.py: under DeepSpeed's launcher, or the bare one of tests/launched.py.

A life begins at the line that rank 0 prints first, most often; else at the parent's, while the ranks import torch.
It is ended by SIGKILL to the parent, the launcher, a rank, or all of them at once; by SIGTERM or SIGINT to the parent;
or in the middle of a write of a rank (rlp_engine/run/faults.py). However it ends, nothing that was started may run on.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import launched
from tiny_run import RLP, rlp_environment
from torture_ways import FAULTS, LEFT_ALONE, Broken, End, some_point

_MARK = "RLP_TORTURE"  # in the environment of the parent, and so of all that it starts
_WEIGHTS = {"parent": 4, "launcher": 2, "rank 0": 3, "rank 1": 3, "all": 3, "SIGTERM": 3, "SIGINT": 2}
_WEIGHTS |= {"SIGINT twice": 3, "write@0": 2, "fsync@0": 1, "before@0": 2, "after@0": 2, "full@0": 2}
_WEIGHTS |= {"write@1": 1, "full@1": 1}
_KILLED = 128 + signal.SIGKILL
_ALLOWED = {
    "parent": {-signal.SIGKILL},
    "all": {-signal.SIGKILL},
    "full": {6},
    "SIGTERM": {143, -signal.SIGTERM},
    "SIGINT": {130},
    "SIGINT twice": {130},
}
_EARLY_SHARE = 0.2  # of the lives that end while the ranks are being started
_MEAN_SECONDS = 3.0
_SURVIVAL_SECONDS = 30.0  # of launcher and ranks without their parent; the launcher looks at its ranks once a second
_TIDY_SECONDS = 2.0  # of anything after a parent that ended by itself: until the kernel has taken away the killed


class Ranks:
    """Lives of two ranks."""

    def __init__(self, said: Path) -> None:
        """`said`: the file that gets what the last one printed."""
        self.said = said
        self.longest_survival = {"parent killed": 0.0, "parent ended": 0.0}

    def measured(self) -> dict[str, object]:
        """For the line of results."""
        return {f"seconds_until_nothing_runs_{k.replace(' ', '_')}": v for k, v in self.longest_survival.items()}

    def live(self, words: Sequence[str], dice: random.Random, *, is_left_alone: bool) -> End:
        """Start `rlp` with these words, `run RUN_DIR ...`, and end it in some way."""
        way = LEFT_ALONE if is_left_alone else dice.choices([*_WEIGHTS], [*_WEIGHTS.values()])[0]
        run_dir = Path(words[1])
        launcher = dice.choice(("deepspeed", "bare")) if (run_dir / "run.toml").exists() else "deepspeed"
        is_early, seconds, point = dice.random() < _EARLY_SHARE, dice.expovariate(1 / _MEAN_SECONDS), some_point(dice)
        kind, _, rank = way.partition("@")
        environment = {_MARK: secrets.token_hex(8)}
        if kind in FAULTS:
            environment["RLP_FAULT"] = f"{kind}:{point}@{rank}"
        own = [sys.executable, launched.__file__, "run", str(run_dir)]
        command = own if launcher == "bare" else [*RLP, *words, "--launcher", "deepspeed", "--nproc", "2"]
        with self.said.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=rlp_environment(**environment)
            )
        if way != LEFT_ALONE and kind not in FAULTS:
            self._wait(process, for_ranks=not is_early)
            time.sleep(seconds)
            _hit(way, process, environment[_MARK])
        code = process.wait()
        self._check_survivors(environment[_MARK], "parent killed" if code == -signal.SIGKILL else "parent ended")
        allowed = () if way == LEFT_ALONE else _ALLOWED.get(kind, {_KILLED})
        return End(f"{way}, {launcher}", code, allowed)

    def _wait(self, process: subprocess.Popen[bytes], *, for_ranks: bool) -> None:
        """Until the parent says that it starts ranks, or until rank 0 has said something too."""
        while process.poll() is None:
            _, starting, text = self.said.read_bytes().partition(b"starting 2 ranks")
            if starting and (not for_ranks or text.count(b"\n") > 1):
                return
            time.sleep(0.02)

    def _check_survivors(self, mark: str, case: str) -> None:
        began = time.monotonic()
        limit = _SURVIVAL_SECONDS if case == "parent killed" else _TIDY_SECONDS
        while left := marked(mark):
            seconds = time.monotonic() - began
            self.longest_survival[case] = max(self.longest_survival[case], round(seconds, 2))
            if seconds > limit:
                raise Broken(f"{seconds:.0f} s after the parent these still run: {left}, see {self.said}")
            time.sleep(0.05)


def marked(mark: str) -> dict[int, dict[str, str]]:
    """The processes that have the mark in their environment, and that environment."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            text = path.read_bytes()
            if f"{_MARK}={mark}".encode() in text:
                pairs = (word.partition("=") for word in text.decode(errors="replace").split("\0") if word)
                found[int(path.parent.name)] = {name: value for name, _, value in pairs if name in ("RANK", _MARK)}
    return found


def _hit(way: str, process: subprocess.Popen[bytes], mark: str) -> None:
    """End it that way. What is gone already takes it in silence."""
    if way in ("SIGTERM", "SIGINT", "SIGINT twice"):
        number = signal.SIGTERM if way == "SIGTERM" else signal.SIGINT
        process.send_signal(number)
        if way == "SIGINT twice":
            time.sleep(0.1)
            process.send_signal(number)
        return
    for pid in _targets(way, process.pid, marked(mark)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _targets(way: str, parent: int, found: dict[int, dict[str, str]]) -> list[int]:
    if way == "all":
        return list(found)
    if way == "parent":
        return [parent]
    if way == "launcher":
        return [pid for pid in found if pid != parent and _parent_of(pid) == parent]
    ranks = [pid for pid, words in found.items() if words.get("RANK") == way.removeprefix("rank ")]
    return [pid for pid in ranks if _parent_of(pid) not in ranks]


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
