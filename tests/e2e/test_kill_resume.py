"""A stage that is killed in the middle and run again makes the files that an uninterrupted one makes, bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from tiny_run import metrics, outputs, rlp, start_and_signal

MIDDLE = {  # stage -> what is there when it is half-way
    "ppo": "checkpoints/step_000002/COMPLETE",
    "round-1/sample": "answers/shard_00001.jsonl",
    "round-1/uml/refine-rm": "checkpoints/step_000006/COMPLETE",
}


def without_stage(finished_run: Path, stage: str, to: Path) -> Path:
    """A copy of the run in which the stage never ran."""
    shutil.copytree(finished_run, to)
    shutil.rmtree(to / stage)
    return to


@pytest.mark.parametrize("stage", MIDDLE)
def test_sigkill_in_the_middle_changes_nothing_in_the_end(finished_run: Path, tmp_path: Path, stage: str):
    run_dir = without_stage(finished_run, stage, tmp_path / "killed")
    process = start_and_signal(run_dir, stage, MIDDLE[stage], signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (run_dir / stage).exists(), "a half-done stage must not look done"
    rlp("run", run_dir, "--only", stage)
    assert outputs(run_dir) == outputs(finished_run)
    if "checkpoints" in MIDDLE[stage]:
        assert metrics(run_dir, stage) == metrics(finished_run, stage)


def test_ctrl_c_saves_a_checkpoint_says_how_to_go_on_and_loses_nothing(finished_run: Path, tmp_path: Path):
    run_dir = without_stage(finished_run, "ppo", tmp_path / "interrupted")
    process = start_and_signal(run_dir, "ppo", MIDDLE["ppo"], signal.SIGINT)
    said = process.stdout.read()
    assert process.returncode == 130
    assert "rlp run" in said
    status = json.loads(rlp("status", run_dir, "--json").stdout)
    assert {row["stage"]: row["status"] for row in status["stages"]}["ppo"] == "interrupted"
    rlp("run", run_dir, "--only", "ppo")
    assert outputs(run_dir) == outputs(finished_run)
    assert metrics(run_dir, "ppo") == metrics(finished_run, "ppo")
