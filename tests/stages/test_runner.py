"""Real stages in real processes: what is left on the disk after success, signals, errors and full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from small_pipeline import STEPS, config, forked, mounted, outputs, pipeline

from rlp_engine.errors import ConfigError, CorruptArtifactError, DataError, Interrupted, ResourceError, RunLockedError
from rlp_engine.run.events import EventLog, MetricsLog
from rlp_engine.run.lock import RunLock
from rlp_engine.run.reporting import NullReporter
from rlp_engine.run.verify import verify
from rlp_engine.stages.plan import plan
from rlp_engine.stages.runner import execute
from rlp_engine.stages.selection import Selection
from rlp_engine.stages.spec import StageContext

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


class Lines(NullReporter):
    """Keeps what people would read."""

    def __init__(self):
        self.lines, self.warnings, self.started = [], [], []

    def line(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def stage_started(self, name, will, because):
        self.started.append((name, will, because))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """No test here cuts the power, and a killed process's writes are safe with the kernel."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("b a c")
    return file


@pytest.fixture
def stages(data):
    return pipeline(data)


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


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


def uninterrupted(tmp_path: Path, stages) -> dict[str, str]:
    folder = tmp_path / "uninterrupted"
    folder.mkdir()
    execute(folder, stages, config())
    return outputs(folder)


def events(run_dir: Path, *kinds: str) -> list[tuple[str, str]]:
    found = EventLog(run_dir / "events.jsonl").read()
    return [(event["event"], event.get("stage", "")) for event in found if event["event"] in kinds]


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


# Doing things again


def test_what_is_made_again_goes_to_superseded_and_nothing_is_deleted(run_dir, stages):
    execute(run_dir, stages, config())
    old = (run_dir / "round-1/spg/synthesize/pairs.jsonl").read_bytes()
    rows = execute(run_dir, stages, config(synthesize={"min_confidence": 0.6}))
    assert [row.name for row in rows if row.did == "run"] == ["round-1/spg/synthesize", "round-1/spg/ppo", "evaluate"]
    kept = list((run_dir / "superseded" / "round-1" / "spg").glob("synthesize-*/pairs.jsonl"))
    assert [file.read_bytes() for file in kept] == [old]
    assert (run_dir / "round-1/spg/synthesize/pairs.jsonl").read_bytes() != old
    reason = json.loads((run_dir / "round-1/spg/synthesize/stage.json").read_text())["reason"]
    assert reason == "synthesize.min_confidence: 0.5 -> 0.6"


def test_the_same_outputs_again_leave_later_stages_alone(run_dir, stages):
    execute(run_dir, stages, config())
    rows = execute(run_dir, stages, config(), Selection(force="sft"))
    assert [row.name for row in rows if row.did != "skip"] == ["sft"]
    assert len(list((run_dir / "superseded").glob("sft-*"))) == 1


def test_a_deleted_stage_is_made_again_alone(run_dir, stages):
    execute(run_dir, stages, config())
    before = outputs(run_dir)
    shutil.rmtree(run_dir / "sft")
    rows = execute(run_dir, stages, config())
    assert [row.name for row in rows if row.did != "skip"] == ["sft"]
    assert outputs(run_dir) == before


def test_one_stage_uses_a_stale_input_and_says_so(run_dir, stages):
    execute(run_dir, stages, config())
    lines = Lines()
    new = config(sft={"epochs": 77}, ppo={"steps": 7})
    execute(run_dir, stages, new, Selection(only="round-1/uml/ppo"), lines)
    assert [name for name, _, _ in lines.started] == ["round-1/uml/ppo"]
    assert lines.warnings[0].startswith("sft is stale (sft.epochs:")


def test_nothing_runs_when_something_later_is_refused(run_dir, stages):
    stages[4] = replace(stages[4], inputs=(replace(stages[4].inputs[0], stage="", path="/nowhere/model.bin"),))
    with pytest.raises(ConfigError, match="cannot read /nowhere/model"):
        execute(run_dir, stages, config())
    assert list(run_dir.iterdir()) == []


def test_a_truncated_artifact_is_refused_before_anything_runs(run_dir, stages):
    execute(run_dir, stages, config())
    weights = run_dir / "sft" / "model" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:5])
    with pytest.raises(CorruptArtifactError) as error:
        execute(run_dir, stages, config(ppo={"steps": 7}), Selection(only="round-1/uml/ppo"))
    assert "weights.bin is 5 bytes" in error.value.what
    execute(run_dir, stages, config(), Selection(force="sft"))
    assert verify(run_dir, [spec.name for spec in stages]) == 7


def test_one_flipped_bit_is_refused_by_the_stage_that_reads_it(run_dir, stages):
    execute(run_dir, stages, config())
    wanted = outputs(run_dir)
    weights = run_dir / "sft" / "model" / "weights.bin"
    flipped = bytearray(weights.read_bytes())
    flipped[3] ^= 1
    weights.write_bytes(flipped)
    shutil.rmtree(run_dir / "round-1/uml/ppo")
    with pytest.raises(CorruptArtifactError) as error:
        execute(run_dir, stages, config())
    assert "an output of stage sft is damaged: model/weights.bin has other content" in error.value.what
    assert error.value.mend.endswith("--force sft")
    assert not list(run_dir.glob("round-1/uml/*")), "nothing was begun"
    execute(run_dir, stages, config(), Selection(force="sft"))
    assert outputs(run_dir) == wanted


def test_verify_finds_what_sizes_do_not_show(run_dir, stages):
    execute(run_dir, stages, config())
    names = [spec.name for spec in stages]
    assert verify(run_dir, names) == 7
    weights = run_dir / "sft" / "model" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(CorruptArtifactError) as error:
        verify(run_dir, names)
    assert "model/weights.bin has other content" in error.value.what
    assert error.value.mend.endswith(f"rlp run {run_dir} --force sft")


def test_other_versions_are_warned_about_and_change_nothing(run_dir, stages):
    execute(run_dir, stages, config(), Selection(until="sft"))
    file = run_dir / "sft" / "stage.json"
    values = json.loads(file.read_text())
    values["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(values))
    lines = Lines()
    execute(run_dir, stages, config(), reporter=lines)
    assert ("sft", "run", "not done yet") not in lines.started
    assert lines.warnings[0].startswith("sft was made with other versions: torch 1.0 -> ")


# Signals and crashes


def computing(context: StageContext):
    """Computes where run_dir/place says, and is stopped when it says so."""
    device, _, is_stopped = (context.run_dir / "place").read_text().partition("; ")
    context.on_device(device)
    context.on_device(device)  # its second model
    if is_stopped:
        (context.out / "begun").write_text("x")
        raise Interrupted(signal.SIGTERM, "stopped by SIGTERM")
    (context.out / "model").mkdir()
    (context.out / "model" / "weights.bin").write_text("y")
    return {}


def compute_on(run_dir: Path, stages, device: str, *, is_stopped: bool = False) -> list[str]:
    """One go at the second stage; its warnings."""
    lines = Lines()
    (run_dir / "place").write_text(device + "; stopped" * is_stopped)
    with pytest.raises(Interrupted) if is_stopped else nullcontext():
        execute(run_dir, with_function(stages, 1, computing), config(), reporter=lines)
    return lines.warnings


def test_work_that_another_device_goes_on_with_is_said_now_and_in_stage_json(run_dir, stages):
    notice = "numbers may differ in the last digits: begun on cpu (AVX2), continued on NVIDIA H100"
    assert compute_on(run_dir, stages, "cpu (AVX2)", is_stopped=True) == []
    assert compute_on(run_dir, stages, "cpu (AVX2)", is_stopped=True) == []
    assert compute_on(run_dir, stages, "NVIDIA H100", is_stopped=True) == [f"sft: {notice}"]
    compute_on(run_dir, stages, "NVIDIA H100")
    stage = json.loads((run_dir / "sft" / "stage.json").read_text())
    assert stage["notices"] == [notice]
    assert stage["platform"]["device"] == "NVIDIA H100"


def test_work_that_other_versions_go_on_with_is_said_now_and_in_stage_json(run_dir, stages):
    compute_on(run_dir, stages, "cpu", is_stopped=True)
    file = run_dir / "sft.partial" / "attempt.json"
    record = json.loads(file.read_text())
    now, record["versions"]["torch"] = record["versions"]["torch"], "1.0"
    file.write_text(json.dumps(record))
    notice = f"numbers may differ in the last digits: continued with other versions: torch 1.0 -> {now}"
    assert compute_on(run_dir, stages, "cpu", is_stopped=True) == [f"sft: {notice}"]
    compute_on(run_dir, stages, "cpu")  # what was noted once stays noted
    assert json.loads((run_dir / "sft" / "stage.json").read_text())["notices"] == [notice]


def test_work_that_stays_on_its_device_has_no_notice(run_dir, stages):
    assert compute_on(run_dir, stages, "cpu", is_stopped=True) == []
    assert compute_on(run_dir, stages, "cpu") == []
    assert json.loads((run_dir / "sft" / "stage.json").read_text())["notices"] == []


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


# Errors of a stage


def failing(context: StageContext):
    (context.out / "half.txt").write_text("half")
    raise KeyError("no such word")


def full_disk(context: StageContext):
    with open("/dev/full", "w") as file:
        file.write("x")


def hungry(context: StageContext):
    raise MemoryError


def with_function(stages, index, function):
    stages[index] = replace(stages[index], function=f"{__name__}:{function.__name__}", sections=("ppo", "generation"))
    return stages


def test_a_stage_that_fails_is_recorded_and_its_error_goes_on(run_dir, stages):
    broken = with_function(list(stages), 4, failing)
    with pytest.raises(KeyError, match="no such word"):
        execute(run_dir, broken, config())
    planned = plan(run_dir, broken, config())[4]
    assert (planned.status, planned.will) == ("failed", "continue")
    assert planned.because == "KeyError: 'no such word'"
    assert events(run_dir, "failed") == [("failed", "round-1/uml/ppo")]
    log = (run_dir / "logs" / "latest" / "rank_0.log").read_text()
    assert "in failing" in log
    assert not (run_dir / "lock").exists()
    assert (run_dir / "round-1/spg/ppo/stage.json").exists(), "what came before stays done"


def test_a_full_disk_while_a_stage_works_ends_with_6_and_names_the_stage(run_dir, stages):
    with pytest.raises(ResourceError) as error:
        execute(run_dir, with_function(stages, 4, full_disk), config())
    assert error.value.what == "no space left on the disk (stage round-1/uml/ppo)"
    assert error.value.exit_code == 6
    assert plan(run_dir, stages, config())[4].status == "failed"


def test_out_of_memory_names_the_keys_that_lower_it(run_dir, stages):
    with pytest.raises(ResourceError) as error:
        execute(run_dir, with_function(stages, 4, hungry), config())
    assert error.value.mend == "lower ppo.microbatch (now 2) or generation.rows (now 64), then run again: it continues"


def test_a_disk_that_fills_up_during_the_run_leaves_a_run_that_continues(tmp_path, data):
    """Every size of disk from far too small to large enough, so that it fills up at ever later writes."""
    stages = pipeline(data)
    wanted = uninterrupted(tmp_path, stages)
    messages, places = [], []
    with mounted(tmp_path / "disk", "size=400k") as disk:
        for free_kib in range(0, 160, 16):
            run_dir = disk / "run"
            run_dir.mkdir()
            left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            ballast = disk / "ballast"
            ballast.write_bytes(b"x" * max(0, left - free_kib * 1024))
            try:
                execute(run_dir, stages, config())
            except ResourceError as error:
                messages.append(error.what)
                places.append(error.where)
            ballast.unlink()
            execute(run_dir, stages, config())
            assert outputs(run_dir) == wanted
            shutil.rmtree(run_dir)
    assert 2 <= len(messages) <= 9, "the sizes must reach from too small to large enough"
    assert all("no space left" in message for message in messages)
    assert all(" bytes, " in place for place in places), places


def test_a_read_only_run_directory_is_said_in_words(tmp_path, stages):
    with (
        mounted(tmp_path / "disk", "ro") as disk,
        pytest.raises(ResourceError, match="cannot write in the run directory"),
    ):
        execute(disk, stages, config())


def test_data_that_changes_while_it_is_read_is_an_error(run_dir, stages, data):
    class Changer(NullReporter):
        def stage_started(self, *_):
            data.write_text("x y z")

    with pytest.raises(DataError, match="changed while prepare read it"):
        execute(run_dir, stages, config(), reporter=Changer())
    assert not (run_dir / "prepare").exists()
    execute(run_dir, stages, config())
    assert (run_dir / "prepare" / "rows.txt").read_text() == "x\ny\nz"


def test_data_that_changes_later_in_the_run_is_an_error_too(run_dir, stages, data):
    class Changer(NullReporter):
        def stage_finished(self, name, *_):
            if name == "sft":
                data.write_text("x y z")

    with pytest.raises(DataError, match="prepare is done, and due again already"):
        execute(run_dir, stages, config(), reporter=Changer())


def test_an_illegible_record_is_replaced_by_force(run_dir, stages):
    execute(run_dir, stages, config())
    wanted = outputs(run_dir)
    (run_dir / "sft" / "stage.json").write_text("{")
    with pytest.raises(CorruptArtifactError):
        execute(run_dir, stages, config())
    execute(run_dir, stages, config(), Selection(force="sft"))
    assert outputs(run_dir) == wanted


def test_a_run_can_be_made_in_a_thread_where_signals_cannot_be_handled(run_dir, stages):
    from threading import Thread

    thread = Thread(target=execute, args=(run_dir, stages, config()))
    thread.start()
    thread.join(30)
    assert len(outputs(run_dir)) == 7


def test_planning_beside_a_working_process_never_disturbs_it(run_dir, stages):
    """A reader looks at the lock file without holding it, so it cannot make a starting writer fail."""
    stop_at = time.monotonic() + 0.5
    pid = os.fork()
    if pid == 0:
        while time.monotonic() < stop_at:
            plan(run_dir, stages, config())
        os._exit(0)
    while time.monotonic() < stop_at:
        with RunLock(run_dir / "lock"):
            pass
    assert os.waitpid(pid, 0)[1] == 0
