"""Kill a whole small run at random instants and inside its writes, run it again each time, and compare the end.

All stages of a tiny sandbox run, `spg` and `uml`. A process that has imported everything forks, the child is `rlp run`,
and it is ended: by SIGKILL at a random instant; by SIGKILL or ENOSPC in the middle of a write, at an fsync, on either
side of a rename (rlp_engine/run/faults.py); by SIGTERM; by SIGINT once and twice. The same command again must go on
without a word of help. When a run has come to its end, its outputs have to have the sha256 of a run that nobody
disturbed, metrics.jsonl the same lines but for wall times, and nothing unfinished may lie about.

    python benchmarks/torture.py --kills 100 --out benchmarks/results/torture.jsonl

It ends with 1 at the first thing that is not as promised, and leaves the run directory and what was said there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_run import TINY, metrics, outputs, rlp_environment, sets

WAYS = ("instant", "write", "fsync", "before", "after", "full", "SIGTERM", "SIGINT", "SIGINT twice")
_WEIGHTS = (8, 5, 2, 4, 4, 5, 2, 2, 2)
_ALLOWED = {"full": {6}, "SIGTERM": {143, -signal.SIGTERM}, "SIGINT": {130}, "SIGINT twice": {130}}
_LAST_POINT = 200  # of one kind within one process; a number behind the last point lets the process end well
_MEAN_SECONDS = 0.4  # of life, from the first word on, of those that are ended by the clock


class Broken(Exception):
    """A promise was not kept."""


@dataclass
class Tally:
    """What was done so far."""

    ended: Counter[str] = field(default_factory=Counter)  # by the way they were ended
    at: Counter[str] = field(default_factory=Counter)  # by the stage that was being made
    runs: int = 0

    @property
    def kills(self) -> int:
        return self.ended.total()


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


def torture(words: Sequence[str], run_dir: Path, said: Path, dice: random.Random, tally: Tally, limit: int) -> None:
    """Start and end `rlp` until one comes to its end; from `limit` kills on they are left alone."""
    while True:
        way = dice.choices(WAYS, _WEIGHTS)[0] if tally.kills < limit else "left alone"
        point = round(_LAST_POINT ** dice.random())  # few points are far from the start, most are near to it
        seconds = dice.expovariate(1 / _MEAN_SECONDS)
        fault = f"{way}:{point}" if way in ("write", "fsync", "before", "after", "full") else ""
        code = end(start(words, said, fault), said, way, seconds)
        text = said.read_text(errors="replace")
        if "Traceback" in text:
            raise Broken(f"a traceback after {way}, see {said}")
        check_what_looks_done(run_dir)
        if code == 0:
            return
        allowed = _ALLOWED.get(way, {-signal.SIGKILL}) if way != "left alone" else set()
        if code not in allowed:
            raise Broken(f"exit code {code} after {way} {fault}, see {said}")
        if way == "full" and " bytes, " not in text:
            raise Broken(f"a full disk without the bytes that are needed, see {said}")
        tally.ended[way] += 1
        tally.at[unfinished(run_dir)] += 1


def unfinished(run_dir: Path) -> str:
    """The stage that was being made."""
    found = sorted(path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*.partial") if path.is_dir())
    stages = [name.removesuffix(".partial") for name in found if "checkpoints" not in name]
    return stages[0] if stages else "between stages"


def check_what_looks_done(run_dir: Path) -> None:
    for file in run_dir.rglob("stage.json"):
        for name, record in json.loads(file.read_text())["outputs"].items():
            if (file.parent / name).stat().st_size != record["bytes"]:
                raise Broken(f"{file.parent / name} is not whole, and stage.json is there")


def check_equal(run_dir: Path, wanted: Path) -> None:
    """The end of a run that was killed again and again, and of one that was not."""
    if outputs(run_dir) != outputs(wanted):
        raise Broken(f"the outputs of {run_dir} are not those of {wanted}")
    for log in wanted.rglob("metrics.jsonl"):
        stage = log.parent.relative_to(wanted).as_posix()
        if metrics(run_dir, stage) != metrics(wanted, stage):
            raise Broken(f"metrics.jsonl of {stage} differs from the undisturbed run's")
        samples = [sorted(path.name for path in (top / stage).rglob("step_*.jsonl")) for top in (run_dir, wanted)]
        if samples[0] != samples[1]:
            raise Broken(f"samples of other steps in {stage}: {samples}")
    left = [str(path) for path in run_dir.rglob("*") if path.name.endswith((".tmp", ".partial", "superseded", "lock"))]
    if left:
        raise Broken(f"left behind: {left}")
    if not (run_dir / "report.html").read_text().rstrip().endswith("</html>"):
        raise Broken("report.html is not whole")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the instants and points")
    parser.add_argument("--out", type=Path, help="a file that gets one JSON line of what was done")
    parser.add_argument("--done", type=Path, help="a finished run to compare with, instead of making one")
    parser.add_argument("--without", nargs="*", default=[], help="with --done: start from a copy without these stages")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    import_everything()
    dice, tally, began = random.Random(arguments.seed), Tally(), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    said, run_dir, wanted = folder / "said.txt", folder / "run", arguments.done or folder / "undisturbed"
    new = ["--preset", "quickstart", *sets(TINY | {"methods": ["uml", "spg"]})]
    try:
        if not arguments.done and end(start(["run", str(wanted), *new], said), said, "left alone", 0):
            raise Broken(f"the undisturbed run failed, see {said}")
        undisturbed = None if arguments.done else round(time.monotonic() - began, 1)
        while tally.kills < arguments.kills:
            if arguments.done:
                shutil.copytree(wanted, run_dir)
                for stage in arguments.without:
                    shutil.rmtree(run_dir / stage)
                new = []
            torture(["run", str(run_dir), *new], run_dir, said, dice, tally, arguments.kills)
            check_equal(run_dir, wanted)
            tally.runs += 1
            sys.stdout.write(f"{tally.runs} runs, {tally.kills} kills\n")
            shutil.rmtree(run_dir)
    except Broken as error:
        sys.stdout.write(f"broken after {tally.kills} kills (seed {arguments.seed}): {error}\n")
        return 1
    shutil.rmtree(folder)
    seconds = round(time.monotonic() - began, 1)
    row = {
        "kills": tally.kills,
        "seed": arguments.seed,
        "runs": tally.runs,
        "ways": dict(sorted(tally.ended.items())),
        "stages": dict(sorted(tally.at.items())),
        "seconds": seconds,
        "seconds_of_an_undisturbed_run": undisturbed,
        "equal": True,
    }
    sys.stdout.write(json.dumps(row) + "\n")
    if arguments.out:
        with open(arguments.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
