"""What the sampling stages hold does not grow with the number of samples."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.streaming_memory import STAGES, build, context_of

SHARD = {"sample": {"num_per_prompt": 10, "shard_prompts": 10}, "embed": {"drift_samples": 20}}
FEW, MANY = 20, 200  # prompts
ROW = 200  # bytes: less than any sample, prompt or decision takes that is held


@pytest.fixture
def collected_at_once() -> Iterator[None]:
    """What is in cycles is gone when it is not held: the peak depends on what is."""
    before = gc.get_threshold()
    gc.set_threshold(200, 2, 2)
    yield
    gc.set_threshold(*before)


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


@pytest.mark.usefixtures("collected_at_once")
def test_more_samples_take_no_more_memory(tmp_path: Path) -> None:
    peaks(tmp_path / "warm", FEW)  # what is made once and kept: imports, caches
    few, many = peaks(tmp_path / "few", FEW), peaks(tmp_path / "many", MANY)
    assert len(list((tmp_path / "many").glob("round-1/sample/answers/shard_*"))) == 20
    for name in STAGES:
        assert many[name] - few[name] < 10 * (MANY - FEW) * ROW, (name, few, many)
