"""Two real processes on DeepSpeed's engine learn what one process learns, and continue where they were killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlp_engine.run.events import MetricsLog

pytest.importorskip("deepspeed", reason="the extra `deepspeed` is not installed")

STEPS = 20
TOLERANCE = 1e-4  # of every metric over 20 steps; found: 1e-5 in gradient norms, 1e-6 in losses


def run_pair(policy: Path, out: Path, steps: int, names: list[str], stages: list[int]) -> None:
    """Two processes train these tasks under these ZeRO stages up to `steps`."""
    script = Path(__file__).with_name("many_processes.py")
    root = script.parents[2]
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
    }
    command = [sys.executable, str(script), str(policy), str(out), str(steps), ",".join(names)]
    done = subprocess.run(
        [*command, ",".join(map(str, stages))], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


def run_one(policy: Path, out: Path, steps: int, name: str) -> None:
    from training.many_processes import train_up_to

    train_up_to(name, policy, out / name, steps)


def metrics_of(folder: Path) -> list[dict]:
    return MetricsLog(folder / "metrics.jsonl").read()


def assert_same_curves(one: Path, two: Path) -> None:
    first, second = metrics_of(one), metrics_of(two)
    assert [row["step"] for row in first] == [row["step"] for row in second] == list(range(1, STEPS + 1))
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in (name for name in a if not name.endswith("seconds")):
            assert b[name] == pytest.approx(a[name], rel=TOLERANCE, abs=TOLERANCE), f"step {a['step']}, {name}"


def samples_of(folder: Path) -> list[str]:
    files = sorted((folder / "samples").glob("*.jsonl"))
    return [json.loads(line)["response"] for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """What one process makes of each task."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            out = tmp_path_factory.mktemp("one")
            run_one(folder, out, STEPS, name)
            made[name] = out / name
        return made[name]

    return of


@pytest.fixture(scope="module")
def half_way(folder, tmp_path_factory):
    """What two processes have made after half the steps, under ZeRO-3."""
    out = tmp_path_factory.mktemp("two")
    run_pair(folder, out, STEPS // 2, ["ppo", "multi-view", "sft-lora"], [3])
    return out


def test_two_processes_stopped_and_continued_learn_what_one_does_without_a_stop(folder, straight, half_way):
    """7 answers over 2 ranks, a microbatch too few for one of them, and a value head of one number."""
    names = ["ppo", "multi-view"]
    run_pair(folder, half_way, STEPS, names, [3])
    for name in names:
        assert_same_curves(straight(name), half_way / "zero-3" / name)
    assert samples_of(straight("ppo")) == samples_of(half_way / "zero-3" / "ppo")


def test_a_run_of_two_processes_continues_in_one(folder, straight, half_way):
    run_one(folder, half_way / "zero-3", STEPS, "sft-lora")
    assert_same_curves(straight("sft-lora"), half_way / "zero-3" / "sft-lora")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_task_learns_in_two_processes_what_it_learns_in_one(stage, folder, straight, tmp_path):
    names = ["sft", "sft-lora", "pairs", "multi-view", "ppo", "ppo-lora"]
    run_pair(folder, tmp_path, STEPS, names, [stage])
    for name in names:
        assert_same_curves(straight(name), tmp_path / f"zero-{stage}" / name)
    for name in ("ppo", "ppo-lora"):  # so ZeRO-3 gives the samples of ZeRO-2
        assert samples_of(straight(name)) == samples_of(tmp_path / f"zero-{stage}" / name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_stopped_and_continued_ends_bit_for_bit_where_it_would_have_ended(stage, folder, tmp_path):
    names = ["sft-lora", "pairs", "multi-view", "ppo"]
    run_pair(folder, tmp_path / "straight", STEPS, names, [stage])
    run_pair(folder, tmp_path / "stopped", STEPS // 2, names, [stage])
    run_pair(folder, tmp_path / "stopped", STEPS, names, [stage])
    for name in names:
        expected, found = (
            load_file(tmp_path / way / f"zero-{stage}" / name / "end.safetensors") for way in ("straight", "stopped")
        )
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.slow
def test_a_score_that_is_not_finite_at_one_rank_ends_every_rank_alike(folder, tmp_path):
    run_pair(folder, tmp_path, STEPS, ["ppo-nan"], [2])
    out = tmp_path / "zero-2" / "ppo-nan"
    told = {(out / f"told-{rank}").read_text() for rank in range(2)}
    bad = "1 of 16 entries of scores are not finite (not finite: score of 1 of 16 rows, on rank 1)"
    assert told == {f"7: stage, step 4: {bad}"}
    rows = [json.loads(line) for line in (out / "failed_step_000004.jsonl").read_text().splitlines()]
    assert [(row["rank"], row["score"]) for row in rows] == [(0, 1.0)] * 8 + [(1, None)] + [(1, 1.0)] * 7
    assert [row["step"] for row in metrics_of(out)] == [1, 2, 3]
