"""A run on a machine whose clock jumps by days, forward and back, is the run of a machine with a good clock."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_run import metrics, outputs, rlp

pytestmark = pytest.mark.slow

# Only the time of day jumps. What the kernel writes into files keeps to another clock, as on a network disk.
JUMPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int calls;
    static const time_t jumps[] = {0, -86400, 86400, -3600};
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (!code && id == CLOCK_REALTIME) now->tv_sec += jumps[__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) / 7 % 4];
    return code;
}
"""


@pytest.fixture(scope="module")
def jumping_clock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library to preload."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to build the clock with")
    library = tmp_path_factory.mktemp("clock") / "jumps.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    if subprocess.run(command, input=JUMPS, text=True, capture_output=True, check=False).returncode:
        pytest.skip("this system's C library has no clock_gettime to stand in for")
    return str(library)


def test_a_clock_that_jumps_changes_nothing(finished_run: Path, tmp_path: Path, jumping_clock: str):
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    for stage in ("ppo", "evaluate"):
        shutil.rmtree(run_dir / stage)
    rlp("run", run_dir, LD_PRELOAD=jumping_clock)
    assert outputs(run_dir) == outputs(finished_run)
    assert metrics(run_dir, "ppo") == metrics(finished_run, "ppo")
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert len({event["time"][:10] for event in events}) > 1, "the clock did jump"
    for file in run_dir.rglob("stage.json"):
        assert 0 <= json.loads(file.read_text())["seconds"] < 3600
    for line in (run_dir / "ppo" / "metrics.jsonl").read_text().splitlines():
        assert all(0 <= value < 3600 for key, value in json.loads(line).items() if key.endswith("seconds"))
    assert "nothing to do" in rlp("run", run_dir).stdout
