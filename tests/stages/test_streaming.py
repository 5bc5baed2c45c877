"""What the sampling stages hold does not grow with the number of samples."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from benchmarks.streaming_memory import STAGES, build, context_of

LEAST_OF_A_SAMPLE = 400  # bytes of a Sample with its text and token ids
SHARD = {"sample": {"num_per_prompt": 10, "shard_prompts": 10}, "embed": {"drift_samples": 20}}


def peaks(run_dir: Path, prompts: int) -> dict[str, int]:
    """Most bytes of Python's and numpy's objects while each stage runs."""
    build(run_dir, prompts, pairs=20)
    found = {}
    for name in STAGES:
        context = context_of(run_dir, name, **SHARD)
        function = context.spec.load()
        tracemalloc.start()
        function(context)
        found[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return found


def test_what_more_samples_take_is_far_less_than_the_samples(tmp_path: Path) -> None:
    peaks(tmp_path / "warm", 20)  # what is made once and kept: imports, caches
    few, many = peaks(tmp_path / "few", 20), peaks(tmp_path / "many", 200)
    assert len(list((tmp_path / "many").glob("round-1/sample/answers/shard_*"))) == 20
    for name in STAGES:
        assert many[name] - few[name] < 1800 * LEAST_OF_A_SAMPLE / 5, (name, few, many)
