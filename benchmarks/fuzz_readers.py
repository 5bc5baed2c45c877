"""Feeds spoilt data files to every reader for a given time; anything but an error of ours is a find.

    python benchmarks/fuzz_readers.py --seconds 600 [--seed 0]

A line of JSON at the end says how many files were read. A find is written to ./fuzz_find and ends with exit 1
and its traceback. The files come from tests/hostile_bytes.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.check import check_file
from rlp_engine.data.judgements import read_judgements
from rlp_engine.data.shapes import SHAPES
from rlp_engine.errors import RlpError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hostile_bytes import hostile_bytes

ROUND = 500  # files between two looks at the clock


def read_every_way(path: Path) -> bool:
    """Whether some reader found nothing wrong. Raises what a reader should not raise."""
    accepted = False
    for kind in SHAPES:
        report = check_file(path, kind)
        assert report.good_rows <= report.rows, f"{report.good_rows} good of {report.rows} rows"
        assert all(len(what) < 2000 for _, what in report.problems), "a message without end"
        accepted |= not report.num_problems
    try:
        read_judgements(DataFile(path=str(path)))
    except RlpError:
        return accepted
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers of data files.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    counts = {"files": 0, "accepted": 0}
    start = time.monotonic()
    number = arguments.seed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.file"

        def one(data: bytes) -> None:
            path.write_bytes(data)
            counts["files"] += 1
            try:
                counts["accepted"] += read_every_way(path)
            except BaseException:
                Path("fuzz_find").write_bytes(data)
                raise

        while time.monotonic() - start < arguments.seconds:
            number += 1
            options = settings(
                max_examples=ROUND,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink],
            )
            seed(number)(options(given(hostile_bytes())(one)))()
    found = {**counts, "seconds": round(time.monotonic() - start, 1), "first_seed": arguments.seed + 1}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
