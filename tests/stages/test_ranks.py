"""The sharded stages under two real processes: the files of one process, whoever is stopped or killed on the way."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rank_stages import build, digests, run

from rlp_engine.distributed.world import World

WORKER = Path(__file__).parents[1] / "rank_stages.py"


def launch(run_dir: Path, *wound: str) -> list[int]:
    """Exit codes of two ranks. The first that fails ends the other, as launchers do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(WORKER.parent), str(WORKER.parents[1])])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(run_dir), *wound],
            env={**os.environ, **common, "PYTHONPATH": paths, "RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1].decode() for rank in ranks]
    if not wound:
        assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return [rank.returncode for rank in ranks]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("ranks") / "run"
    build(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def of_one_process(inputs: Path) -> dict[str, str]:
    run_dir = inputs.with_name("one")
    shutil.copytree(inputs, run_dir)
    run(run_dir, World())
    return digests(run_dir)


def test_two_ranks_leave_the_files_of_one_process(inputs: Path, of_one_process: dict[str, str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(inputs, run_dir)
    launch(run_dir)
    assert digests(run_dir) == of_one_process
    many = ("round-1/sample/answers", "round-1/embed/vectors", "evaluate/answers/ppo/sampled", ".cache/nli")
    for folder in many:
        assert sum(name.startswith(folder) for name in of_one_process) > 1, folder


@pytest.mark.slow
@pytest.mark.parametrize("wound", ["SIGKILL", "SIGTERM"])
def test_after_a_rank_was_killed_or_stopped_whole_shards_stay(
    inputs: Path, of_one_process: dict[str, str], tmp_path: Path, wound: str
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(inputs, run_dir)
    codes = launch(run_dir, wound)
    assert all(codes)
    made = {file: file.stat().st_mtime_ns for file in run_dir.glob("round-1/sample/answers/shard_*")}
    assert made
    assert not (run_dir / "round-1" / "embed" / "drift.json").exists()
    launch(run_dir)
    assert digests(run_dir) == of_one_process
    assert all(file.stat().st_mtime_ns == time for file, time in made.items())
