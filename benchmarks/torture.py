"""Kill a whole small run at random instants and inside its writes, run it again each time, and compare the end.

All stages of a tiny sandbox run, `spg` and `uml`. A process that has imported everything forks, the child is `rlp run`,
and it is ended: by SIGKILL at a random instant; by SIGKILL or ENOSPC in the middle of a write, at an fsync, on either
side of a rename (rlp_engine/run/faults.py); by SIGTERM; by SIGINT once and twice. The same command again must go on
without a word of help. When a run has come to its end, its outputs have to have the sha256 of a run that nobody
disturbed, metrics.jsonl the same lines but for wall times, and nothing unfinished may lie about.

    python benchmarks/torture.py --kills 100 --out benchmarks/results/torture.jsonl
    python benchmarks/torture.py --kills 30 --ranks 2        # under a launcher (torture_ranks.py); 1 minute a kill

It ends with 1 at the first thing that is not as promised, and leaves the run directory and what was said there.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_run import TINY, metrics, outputs, sets
from torture_ways import Broken, End, OneProcess


class Lives(Protocol):
    """Processes that do `rlp WORDS` and are ended: of one process each, or of the ranks of a launch."""

    said: Path  # what the last one printed

    def live(self, words: Sequence[str], dice: random.Random, *, is_left_alone: bool) -> End: ...

    def measured(self) -> dict[str, object]: ...


@dataclass
class Tally:
    """What was done so far."""

    ended: Counter[str] = field(default_factory=Counter)  # by the way they were ended
    at: Counter[str] = field(default_factory=Counter)  # by the stage that was being made
    runs: int = 0

    @property
    def kills(self) -> int:
        return self.ended.total()


def torture(lives: Lives, words: Sequence[str], dice: random.Random, tally: Tally, limit: int) -> None:
    """Start and end `rlp WORDS` until one comes to its end; from `limit` kills on they are left alone."""
    run_dir = Path(words[1])
    while True:
        end = lives.live(words, dice, is_left_alone=tally.kills >= limit)
        text = lives.said.read_text(errors="replace")
        if "Traceback" in text:
            raise Broken(f"a traceback after {end.way}, see {lives.said}")
        check_what_looks_done(run_dir)
        if end.code == 0:
            return
        if end.code not in end.allowed:
            raise Broken(f"exit code {end.code} after {end.way}, see {lives.said}")
        if end.code == 6 and " bytes, " not in text:
            raise Broken(f"a full disk without the bytes that are needed, see {lives.said}")
        tally.ended[end.way] += 1
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


def lives_of(ranks: int, said: Path) -> Lives:
    if ranks == 1:
        return OneProcess(said)
    from torture_ranks import Ranks

    return Ranks(said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the instants and points")
    parser.add_argument("--out", type=Path, help="a file that gets one JSON line of what was done")
    parser.add_argument("--done", type=Path, help="a finished run to compare with, instead of making one")
    parser.add_argument("--without", nargs="*", default=[], help="with --done: start from a copy without these stages")
    parser.add_argument("--ranks", type=int, choices=(1, 2), default=1, help="2: under launchers, with DeepSpeed")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    dice, tally, began = random.Random(arguments.seed), Tally(), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    run_dir, wanted = folder / "run", arguments.done or folder / "undisturbed"
    lives = lives_of(arguments.ranks, folder / "said.txt")
    new = [] if arguments.done else ["--preset", "quickstart", *sets(TINY | {"methods": ["uml", "spg"]})]
    try:
        if not arguments.done and lives.live(["run", str(wanted), *new], dice, is_left_alone=True).code:
            raise Broken(f"the undisturbed run failed, see {lives.said}")
        undisturbed = None if arguments.done else round(time.monotonic() - began, 1)
        while tally.kills < arguments.kills:
            if arguments.done:
                shutil.copytree(wanted, run_dir)
                for stage in arguments.without:
                    shutil.rmtree(run_dir / stage)
            torture(lives, ["run", str(run_dir), *new], dice, tally, arguments.kills)
            check_equal(run_dir, wanted)
            tally.runs += 1
            sys.stdout.write(f"{tally.runs} runs, {tally.kills} kills\n")
            sys.stdout.flush()
            shutil.rmtree(run_dir)
    except Broken as error:
        sys.stdout.write(f"broken after {tally.kills} kills (seed {arguments.seed}): {error}\n")
        return 1
    shutil.rmtree(folder)
    seconds = round(time.monotonic() - began, 1)
    row = {
        "ranks": arguments.ranks,
        "kills": tally.kills,
        "seed": arguments.seed,
        "runs": tally.runs,
        "ways": dict(sorted(tally.ended.items())),
        "stages": dict(sorted(tally.at.items())),
        "seconds": seconds,
        "seconds_of_an_undisturbed_run": undisturbed,
        **lives.measured(),
        "equal": True,
    }
    sys.stdout.write(json.dumps(row) + "\n")
    if arguments.out:
        with open(arguments.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
