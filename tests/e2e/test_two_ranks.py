"""Every stage of a run under a launcher with two ranks makes what one process makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import TINY, metrics, rlp, sets

pytest.importorskip("deepspeed", reason="the extra `deepspeed` is not installed")
pytestmark = pytest.mark.slow

METHODS = "spg,uml"
TOLERANCE = 1e-4
STAGES = ["sft", "train-rm", "ppo", "round-1/spg/refine-rm", "round-1/uml/refine-rm", "round-1/spg/ppo"]
SHARDS = ["collect/answers", "round-1/sample/answers", "round-1/sample/sft_answers"]


def run(run_dir: Path, lora_rank: int, *words: str) -> None:
    values = TINY | {"model.lora.rank": lora_rank, "sample.shard_prompts": 8}
    rlp("run", "--preset", "quickstart", run_dir, "--method", METHODS, *sets(values), *words)


def texts(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("launcher", "zero_stage", "lora_rank"), [("deepspeed", 2, 0), ("accelerate", 3, 0), ("deepspeed", 3, 4)]
)
def test_a_whole_run_on_two_ranks(launcher, zero_stage, lora_rank, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, lora_rank)
    run(two, lora_rank, "--launcher", launcher, "--nproc", "2", "--set", f"deepspeed.zero_stage={zero_stage}")
    rlp("status", two, "--check", "--verify")
    for stage in STAGES:
        first, second = metrics(one, stage), metrics(two, stage)
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=TOLERANCE, abs=TOLERANCE), f"{stage}, step {a['step']}"
    for folder in SHARDS:
        assert texts(two / folder) == texts(one / folder)
    policies = [json.loads((run_dir / "evaluate" / "results.json").read_text())["policies"] for run_dir in (one, two)]
    assert [row["win_rate"] for row in policies[1]] == [row["win_rate"] for row in policies[0]]
    assert json.loads((two / "ppo" / "stage.json").read_text())["platform"]["world_size"] == 2
