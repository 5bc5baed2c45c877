"""Real stages in real processes: what is left on the disk after success, signals and crashes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_pipeline import STEPS, Lines, config, events, forked, mounted, outputs, uninterrupted

from rlp_engine.errors import ConfigError, Interrupted, RunLockedError
from rlp_engine.run.events import MetricsLog
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.plan import plan
from rlp_engine.stages.runner import execute
from rlp_engine.stages.selection import Selection

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
TESTS = Path(__file__).resolve().parents[1]
PROGRAM = """
import signal, sys
from pathlib import Path
from small_pipeline import config, pipeline
from rlp_engine.errors import RlpError
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.runner import execute

class Reporter(NullReporter):
    def step(self, stage, step, total, metrics, seconds):
        print("step", step, flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
try:
    execute(Path(sys.argv[1]), pipeline(Path(sys.argv[2])), config(), reporter=Reporter())
except RlpError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
assert "torch" not in sys.modules
"""


@pytest.fixture
def start(run_dir, data):
    """Start the run in a process of its own, with a pause in every training step."""
    processes = []

    def starter(pause: float = 0.3) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, run_dir, data],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS), "SMALL_PAUSE": str(pause)},
        )
        processes.append(process)
        return process

    yield starter
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    while (line := process.stdout.readline()) != f"step {step}\n":
        assert line, process.stderr.read()


# What a good run leaves


def test_a_run_makes_every_stage_and_a_second_one_writes_nothing(run_dir, stages):
    first = execute(run_dir, stages, config())
    assert [(row.status, row.did) for row in first] == [("done", "run")] * len(stages)
    before = {path: path.lstat().st_mtime_ns for path in run_dir.rglob("*")}
    second = execute(run_dir, stages, config())
    assert [(row.status, row.did) for row in second] == [("done", "skip")] * len(stages)
    assert {path: path.lstat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_a_finished_run_needs_no_right_to_write(tmp_path, stages):
    with mounted(tmp_path / "disk", "size=4m") as disk:
        execute(disk, stages, config())
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert [row.did for row in execute(disk, stages, config())] == ["skip"] * len(stages)


def test_stage_json_says_what_was_made_of_what(run_dir, stages, data):
    execute(run_dir, stages, config())
    stage = json.loads((run_dir / "sft" / "stage.json").read_text())
    assert stage["status"] == "done"
    assert stage["reason"] == "not done yet"
    assert sorted(stage["outputs"]) == ["model/config.json", "model/weights.bin"]
    assert list(stage["logs"]) == ["metrics.jsonl"]
    assert stage["inputs"]["rows"]["stage"] == "prepare"
    assert stage["config"]["seed"] == stage["seed"] == 42
    assert stage["config"]["log"]["every_steps"] == 1
    assert stage["attempts"] == 1
    assert stage["versions"]["python"]
    assert stage["platform"]["world_size"] == 1
    assert stage["peak_rss_bytes"] >= stage["start_rss_bytes"] > 2**20
    assert stage["peak_device_bytes"] is None
    assert json.loads((run_dir / "sft" / "config.json").read_text()) == stage["config"]
    assert sorted(path.name for path in (run_dir / "sft").iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "model",
        "stage.json",
    ]


def test_times_are_logs_and_nan_is_null(run_dir, stages):
    execute(run_dir, stages, config())
    stage = json.loads((run_dir / "round-1/uml/ppo/stage.json").read_text())
    assert list(stage["logs"]) == ["timing.txt"]
    assert stage["summary"] == {"reward": 1.5, "undefined": None}


def test_every_launch_has_its_log_and_latest_points_to_the_last(run_dir, stages):
    execute(run_dir, stages, config(), Selection(until="sft"))
    execute(run_dir, stages, config())
    assert sorted(path.name for path in (run_dir / "logs").iterdir()) == ["attempt_1", "attempt_2", "latest"]
    assert f"sft step {STEPS} of {STEPS}" in (run_dir / "logs" / "attempt_1" / "rank_0.log").read_text()
    assert "evaluate: done" in (run_dir / "logs" / "latest" / "rank_0.log").read_text()
    assert events(run_dir, "started")[:2] == [("started", "prepare"), ("started", "sft")]


def test_the_lock_is_gone_and_handlers_are_back_after_a_run(run_dir, stages):
    before = signal.getsignal(signal.SIGTERM)
    execute(run_dir, stages, config())
    assert not (run_dir / "lock").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_does_not_exist_is_said_so(tmp_path, stages):
    with pytest.raises(ConfigError, match="no such run"):
        execute(tmp_path / "nowhere", stages, config())


# Signals and crashes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_stops_after_the_step_and_the_next_run_continues_to_the_same_result(
    run_dir, stages, start, tmp_path, number, code
):
    process = start()
    wait_for_step(process, 2)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert "after step 2" in out
    assert f"to continue: rlp run {run_dir}" in out
    assert not (run_dir / "lock").exists()
    assert not (run_dir / "sft").exists()
    planned = plan(run_dir, stages, config())[1]
    assert (planned.status, planned.will) == ("interrupted", "continue")
    assert "after step 2" in planned.because

    execute(run_dir, stages, config())
    assert outputs(run_dir) == uninterrupted(tmp_path, stages)
    assert [row["step"] for row in MetricsLog(run_dir / "sft" / "metrics.jsonl").read()] == list(range(1, STEPS + 1))
    assert json.loads((run_dir / "sft" / "stage.json").read_text())["attempts"] == 2
    assert events(run_dir, "interrupted") == [("interrupted", "sft")]


def test_a_signal_between_stages_stops_before_the_next_one(run_dir, stages):
    class Signaller(NullReporter):
        def stage_finished(self, name, *_):
            if name == "sft":
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as error:
        execute(run_dir, stages, config(), reporter=Signaller())
    assert error.value.where == "before round-1/spg/synthesize"
    assert error.value.mend == f"to continue: rlp run {run_dir}"
    assert not list(run_dir.glob("round-1"))


def test_a_second_signal_exits_at_once_and_frees_the_run(run_dir, stages, start, tmp_path):
    process = start(pause=30)
    wait_for_step(process, 1)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert "once more" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert not (run_dir / "lock").exists()
    execute(run_dir, stages, config())
    assert outputs(run_dir) == uninterrupted(tmp_path, stages)


def test_after_sigkill_the_dead_lock_is_taken_over_and_the_work_continues(run_dir, stages, start, tmp_path):
    process = start()
    wait_for_step(process, 3)
    process.kill()
    process.wait()
    assert (run_dir / "lock").exists()
    lines = Lines()
    execute(run_dir, stages, config(), reporter=lines)
    assert lines.started[0][:2] == ("sft", "continue")
    assert f"pid {process.pid}" in lines.lines[0]
    assert events(run_dir, "lock taken over") == [("lock taken over", "")]
    assert outputs(run_dir) == uninterrupted(tmp_path, stages)


def test_what_a_killed_writer_left_is_gone_before_the_work_continues(run_dir, stages):
    class Killer(NullReporter):
        def step(self, *_):
            (run_dir / "sft.partial" / ".weights.bin.77-0.tmp").write_bytes(b"x" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)

    class Looker(NullReporter):
        def step(self, *_):
            assert not list((run_dir / "sft.partial").glob(".*"))

    forked(lambda: execute(run_dir, stages, config(), reporter=Killer()))
    assert list((run_dir / "sft.partial").glob(".*"))
    execute(run_dir, stages, config(), reporter=Looker())


@pytest.mark.parametrize(("carry", "jump_seconds"), [(shutil.move, -400_000_000), (shutil.copytree, 400_000_000)])
def test_a_killed_run_goes_on_elsewhere_and_under_another_clock(run_dir, stages, tmp_path, carry, jump_seconds):
    class Killer(NullReporter):
        def step(self, stage, step, *_):
            if step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    forked(lambda: execute(run_dir, stages, config(), reporter=Killer()))
    (tmp_path / "elsewhere").mkdir()
    carry(run_dir, tmp_path / "elsewhere" / "run")
    moved, lines = tmp_path / "elsewhere" / "run", Lines()
    for path in moved.rglob("*"):
        os.utime(path, (time.time() + jump_seconds,) * 2, follow_symlinks=False)
    execute(moved, stages, config(), reporter=lines)
    assert lines.started[0][:2] == ("sft", "continue")
    assert (moved / "logs" / "latest").readlink() == Path("attempt_2")  # also where the copy had made a folder of it
    assert outputs(moved) == uninterrupted(tmp_path, stages)
    assert not any(stage.is_due for stage in plan(moved, stages, config()))


def test_a_second_process_is_refused_and_disturbs_nothing(run_dir, stages, start, tmp_path):
    process = start(pause=0.1)
    wait_for_step(process, 1)
    with pytest.raises(RunLockedError) as error:
        execute(run_dir, stages, config())
    assert f"pid {process.pid}" in error.value.where
    assert plan(run_dir, stages, config())[1].status == "running"
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert outputs(run_dir) == uninterrupted(tmp_path, stages)


def test_a_lock_removed_by_hand_stops_the_run_before_it_commits(run_dir, stages):
    class Remover(NullReporter):
        def step(self, *_):
            (run_dir / "lock").unlink(missing_ok=True)

    with pytest.raises(RunLockedError, match="removed"):
        execute(run_dir, stages, config(), reporter=Remover())
    assert not (run_dir / "sft").exists()
    execute(run_dir, stages, config())


def test_a_forced_stage_that_was_stopped_continues_without_force(run_dir, stages):
    execute(run_dir, stages, config())

    class Stopper(NullReporter):
        def step(self, stage, step, *_):
            if step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):  # the second time it starts again, as --force says
        forked(lambda: execute(run_dir, stages, config(), Selection(force="sft"), Stopper()))
    lines = Lines()
    execute(run_dir, stages, config(), reporter=lines)
    assert [row[:2] for row in lines.started] == [("sft", "continue")]
    kept = sorted(path.name.split("-")[0] for path in (run_dir / "superseded").iterdir())
    assert kept == ["sft", "sft.partial"]


def test_unfinished_work_of_another_config_is_kept_aside_and_said(run_dir, stages):
    class Stopper(NullReporter):
        def step(self, stage, step, *_):
            if step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    forked(lambda: execute(run_dir, stages, config(), reporter=Stopper()))
    lines = Lines()
    execute(run_dir, stages, config(sft={"epochs": 77}), Selection(until="sft"), lines)
    name, action, because = lines.started[0]
    assert (name, action) == ("sft", "start again")
    assert because.endswith("sft.epochs: 3 -> 77; its checkpoints are kept aside")
    (kept,) = (run_dir / "superseded").glob("sft.partial-*")
    assert json.loads((kept / "checkpoints" / "state.json").read_text())["step"] == 2
    assert [row["step"] for row in MetricsLog(run_dir / "sft" / "metrics.jsonl").read()] == list(range(1, STEPS + 1))
