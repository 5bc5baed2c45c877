"""A run that is ended again and again, in the middle of its writes too, makes what one makes that nobody disturbs.

The long version, with all stages and many more kills: python benchmarks/torture.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import ROOT, rlp_environment

STAGES = ["ppo", "round-1/spg/synthesize", "round-1/spg/refine-rm", "evaluate"]


def torture(*words: str | Path) -> dict[str, object]:
    """What benchmarks/torture.py says it did, after it found nothing wrong."""
    program = [sys.executable, str(ROOT / "benchmarks" / "torture.py"), *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, env=rlp_environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_that_is_killed_again_and_again_ends_as_if_nobody_had(finished_run: Path):
    did = torture("--done", finished_run, "--without", *STAGES, "--kills", "6", "--seed", "2")
    assert did["kills"] >= 6


@pytest.mark.slow
def test_a_hundred_kills_over_every_stage():
    did = torture("--kills", "100", "--seed", "0")
    assert did["kills"] >= 100
    assert len(did["stages"]) >= 8


@pytest.mark.slow
def test_kills_of_two_ranks_their_launchers_and_their_parents():
    pytest.importorskip("deepspeed", reason="the extra `deepspeed` is not installed")
    did = torture("--ranks", "2", "--kills", "8", "--seed", "0")
    assert did["kills"] >= 8
