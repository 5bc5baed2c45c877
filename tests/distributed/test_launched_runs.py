"""Real ranks under a real launcher process: failures, kills and stops (tests/launched.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import launched
import pytest

from rlp_engine.config.schema import RunConfig
from rlp_engine.distributed.launch_environment import free_port
from rlp_engine.run.lock_owner import live_owner
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.runner import execute

LONGEST_SECONDS = 60


@pytest.fixture(params=["bare", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepspeed", "accelerate"))])
def launcher(request):
    return request.param


@pytest.fixture
def start(tmp_path, launcher):
    """Start the parent of two ranks."""
    processes = []

    def starter(fault: str, *node: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, launched.__file__, "parent", str(tmp_path), launcher, *node],
            env={**os.environ, launched.FAULT: fault, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield starter
    for process in processes:
        process.kill()
        process.communicate()


def until(is_so, what: str) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def processes_of(run_dir: Path) -> list[int]:
    """Whose command line names the run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(run_dir).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def is_training(run_dir: Path) -> bool:
    return (run_dir / "sft.partial" / "checkpoints" / "state.json").exists()


def test_an_error_of_rank_1_is_told_once_with_its_exit_code(start, launcher, tmp_path):
    process = start("data-error:1")
    out, err = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 4
    assert err == (
        "warning: seen by rank 0\nerror: rank 1: row 3 is not a row\n  where: rows.json, line 3\n  mend:  mend it\n"
    )
    assert "step 2 of 6" in out, "rank 0's lines reach the terminal"
    record = json.loads((tmp_path / "sft.partial" / "attempt.json").read_text())
    assert (record["status"], record["message"]) == ("failed", "rank 1: row 3 is not a row (rows.json, line 3)")
    assert "warning: seen by rank 1" in (tmp_path / "logs" / "latest" / "rank_1.log").read_text()
    if launcher == "bare":
        assert (tmp_path / "logs" / "latest" / "launcher.log").read_text().startswith(" a launcher in colour \ufffd\n")
    assert json.loads((tmp_path / "prepare" / "stage.json").read_text())["summary"]["rank"] == 0
    assert processes_of(tmp_path) == []


def test_a_full_disk_of_rank_1_is_told_as_one_of_rank_0(start, tmp_path):
    process = start("full:1")
    _, err = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 6, err
    assert "error: rank 1: no space left on the disk (stage sft)\n" in err
    assert f"{tmp_path}/sft.partial/rank_1.json: it needs " in err
    assert "bug" not in err


def test_a_killed_rank_ends_the_launch_with_a_clear_error(start, tmp_path):
    process = start("kill:1")
    until(lambda: is_training(tmp_path), "never trained")
    began = time.monotonic()
    _, err = process.communicate(timeout=LONGEST_SECONDS)
    assert time.monotonic() - began < 30
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: rank 1 was killed by signal 9 (SIGKILL)\n" in err
    assert "out of memory?" in err
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("launcher", ["bare"])
def test_a_launcher_that_is_killed_before_its_ranks_begin_is_told_as_killed(start, tmp_path):
    process = start("no-launcher")
    _, err = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 128 + signal.SIGKILL
    assert err.startswith("error: the launcher was killed by signal 9 (SIGKILL) before a rank had begun\n")
    assert f"to continue: rlp run {tmp_path}" in err
    assert [path.name for path in (tmp_path / "logs" / "attempt_1").iterdir()] == ["launcher.log"]


def test_sigterm_makes_a_checkpoint_and_another_world_size_goes_on_with_a_notice(start, launcher, tmp_path):
    process = start("pause")
    until(lambda: is_training(tmp_path), "never trained")
    process.terminate()
    _, err = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 143, err
    assert err.count("SIGTERM: stopping at the next safe point") == 1
    done = json.loads((tmp_path / "sft.partial" / "checkpoints" / "state.json").read_text())["step"]
    assert 1 <= done < launched.STEPS

    warnings = []

    class Reporter(NullReporter):
        def warn(self, text):
            warnings.append(text)

    execute(tmp_path, launched.pipeline(RunConfig()), RunConfig(), reporter=Reporter())
    notice = "numbers may differ in the last digits: begun on 2 ranks, continued on 1 rank"
    assert f"sft: {notice}" in warnings
    stage = json.loads((tmp_path / "sft" / "stage.json").read_text())
    assert stage["notices"] == [notice]
    alone = sum(range(done + 1, launched.STEPS + 1))
    assert stage["summary"]["sum"] == 2 * sum(range(1, done + 1)) + alone
    prepared = json.loads((tmp_path / "prepare" / "stage.json").read_text())
    assert prepared["platform"]["world_size"] == 2
    assert prepared["platform"]["launcher"] == ("deepspeed" if launcher == "bare" else launcher)
    assert prepared["notices"] == []


@pytest.mark.slow
def test_a_second_ctrl_c_ends_every_rank_at_once_and_the_run_goes_on_later(start, tmp_path):
    process = start("hang")
    until(lambda: is_training(tmp_path), "never trained")
    process.send_signal(signal.SIGINT)
    while "once more to stop at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 130
    until(lambda: not processes_of(tmp_path), "a rank still runs")
    assert live_owner(tmp_path / "lock") is None
    process = start("none")
    _, err = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 0, err
    assert json.loads((tmp_path / "sft" / "stage.json").read_text())["summary"]["sum"] == 2 * sum(range(1, 7))


def test_no_rank_outlives_a_killed_parent(start, tmp_path):
    process = start("hang")
    until(lambda: is_training(tmp_path), "never trained")
    process.kill()
    until(lambda: not processes_of(tmp_path), "a rank still runs")
    assert live_owner(tmp_path / "lock") is None, "the next launch takes the lock over"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["bare"])
def test_a_run_directory_that_is_not_shared_is_refused(start, launcher, tmp_path):
    _, err = start("elsewhere:1").communicate(timeout=LONGEST_SECONDS)
    assert "error: the run directory is not the same on every machine\n" in err
    assert "rank 1 on" in err
    assert not (tmp_path / "prepare").exists()
    assert not (tmp_path / "lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["bare"])
def test_the_second_of_two_launches_of_one_run_ends_with_8(start, launcher, tmp_path):
    start("hang")
    until(lambda: is_training(tmp_path), "never trained")
    second = start("none")
    _, err = second.communicate(timeout=LONGEST_SECONDS)
    assert second.returncode == 8
    assert err.startswith("error: another process works on this run\n")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "accelerate"])
def test_two_machines_without_ssh(start, tmp_path, launcher):
    """Two parents on this machine, a rank each. Ctrl-C at one of them stops both."""
    master = f"127.0.0.1:{free_port()}"
    nodes = [start("pause", str(number), master) for number in range(2)]
    until(lambda: is_training(tmp_path), "never trained")
    nodes[1].send_signal(signal.SIGINT)
    for process in nodes:
        _, err = process.communicate(timeout=LONGEST_SECONDS)
        assert process.returncode == 130, err
    nodes = [start("none", str(number), master) for number in range(2)]
    for process in nodes:
        _, err = process.communicate(timeout=LONGEST_SECONDS)
        assert process.returncode == 0, err
    stage = json.loads((tmp_path / "sft" / "stage.json").read_text())
    assert stage["summary"]["sum"] == 2 * sum(range(1, launched.STEPS + 1))
    assert stage["platform"]["world_size"] == 2
    assert {path.name for path in (tmp_path / "logs").glob("attempt_*")} == {"attempt_1", "attempt_2"}
    assert processes_of(tmp_path) == []
