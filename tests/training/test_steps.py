import json
import math
import os
import signal

import pytest
import torch
from small_pipeline import forked
from training.tiny_tasks import Recorder, train

from rlp_engine.errors import HealthError, Interrupted, ResourceError
from rlp_engine.run import faults
from rlp_engine.run.events import MetricsLog
from rlp_engine.run.signals import StopSignal
from rlp_engine.training.checkpoint import TaskState
from rlp_engine.training.steps import Task


class Walk(Task):
    """Adds a random number a step: any step done twice, left out or drawn from another state shows."""

    total_steps = 7

    def __init__(self, bad_step=0):
        self.position = torch.zeros(1)
        self.bad_step = bad_step
        self.seen = []

    def step(self, step):
        self.position += torch.rand(1)
        self.seen.append(step)
        return {"position": float(self.position), "reward": math.nan if step == self.bad_step else 1.0}

    def state(self):
        return TaskState({"position": self.position}, {"seen": self.seen})

    def restore(self, state):
        self.position = state.tensors["position"]
        self.seen = list(state.values["seen"])

    def samples(self):
        return [{"text": f"sample {i}", "score": math.inf} for i in range(5)]

    def failed_batch(self):
        return self.samples()

    def warnings(self):
        return ["step three!"] if self.seen[-1] == 3 else []


@pytest.fixture
def straight(tmp_path):
    torch.manual_seed(0)
    task = Walk()
    train(task, tmp_path / "straight")
    return task


def stop_after(step_to_stop_at, stop):
    return lambda step: stop.request() if step == step_to_stop_at else None


def logged_steps(out):
    return [row["step"] for row in MetricsLog(out / "metrics.jsonl").read()]


def test_every_step_is_done_once_logged_and_checkpointed(straight, tmp_path):
    out = tmp_path / "straight"
    assert straight.seen == [1, 2, 3, 4, 5, 6, 7]
    assert logged_steps(out) == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step_000006", "step_000007"]


def test_an_asked_stop_checkpoints_and_the_next_run_ends_as_if_never_stopped(straight, tmp_path):
    torch.manual_seed(0)
    stop = StopSignal()
    with pytest.raises(Interrupted):
        train(Walk(), tmp_path, stop=stop, after_step=stop_after(3, stop))
    assert (tmp_path / "checkpoints" / "step_000003" / "COMPLETE").exists()
    torch.manual_seed(99)  # a new process: the generator's state has to come from the checkpoint
    resumed = Walk()
    metrics = train(resumed, tmp_path)
    assert resumed.seen == straight.seen
    assert torch.equal(resumed.position, straight.position)
    assert logged_steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    assert metrics["position"] == float(straight.position)


def test_lines_after_the_checkpoint_are_cut_and_not_repeated(straight, tmp_path):
    out = tmp_path / "straight"
    for name in ("step_000007", "step_000006"):
        (out / "checkpoints" / name / "COMPLETE").unlink()
    reporter = Recorder()
    train(Walk(), out, reporter=reporter)
    assert logged_steps(out) == [1, 2, 3, 4, 5, 6, 7]
    assert "starting at step 1 of 7; step_000007 was ignored (incomplete: no COMPLETE)" in reporter.lines[0]


def test_the_lines_so_far_are_on_the_disk_before_a_checkpoint_relies_on_them(tmp_path):
    def work():
        faults.arm("fsync:1")
        train(Walk(), tmp_path / "out", every_steps=1)

    assert os.WTERMSIG(forked(work)) == signal.SIGKILL
    assert logged_steps(tmp_path / "out") == [1]
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(straight, tmp_path):
    out = tmp_path / "straight"
    (out / "checkpoints" / "step_000007" / "tensors.safetensors").write_bytes(b"cut")
    reporter = Recorder()
    resumed = Walk()
    train(resumed, out, reporter=reporter)
    assert "continuing at step 6 of 7" in reporter.lines[0]
    assert "step_000007 was ignored (tensors.safetensors has changed" in reporter.lines[0]
    assert torch.equal(resumed.position, straight.position)


def test_a_finished_task_is_restored_and_not_trained_further(straight, tmp_path):
    again = Walk()
    metrics = train(again, tmp_path / "straight")
    assert torch.equal(again.position, straight.position)
    assert metrics == {"position": float(straight.position), "reward": 1.0}


def test_a_number_that_is_not_finite_stops_with_its_name_step_and_rows(tmp_path):
    with pytest.raises(HealthError, match="stage, step 5: reward is nan"):
        train(Walk(bad_step=5), tmp_path)
    assert len((tmp_path / "failed_step_000005.jsonl").read_text().splitlines()) == 5
    resumed = Walk()
    train(resumed, tmp_path)  # the checkpoint of step 4 stands
    assert resumed.seen == [1, 2, 3, 4, 5, 6, 7]


def test_samples_are_written_every_so_many_steps(straight, tmp_path):
    files = sorted((tmp_path / "straight" / "samples").iterdir())
    assert [file.name for file in files] == [f"step_00000{step}.jsonl" for step in (2, 4, 6, 7)]
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert rows == [{"text": f"sample {i}", "score": None} for i in range(3)]


def test_warnings_reach_people_and_the_event_log(tmp_path):
    reporter = Recorder()
    train(Walk(), tmp_path, reporter=reporter)
    assert reporter.warned == ["stage, step 3: step three!"]
    assert "step three!" in (tmp_path / "events.jsonl").read_text()


def test_a_step_with_news_is_logged_between_the_intervals(tmp_path):
    class WithNews(Walk):
        def has_news(self):
            return self.seen[-1] == 4

    train(WithNews(), tmp_path, log_every=3)
    assert logged_steps(tmp_path) == [3, 4, 6, 7]


def test_too_little_disk_for_two_checkpoints_is_told_before_the_first_step(tmp_path):
    task = Walk()
    task.position = torch.empty(1 << 60, device="meta")
    with pytest.raises(ResourceError, match="disk for two checkpoints"):
        train(task, tmp_path)
    assert task.seen == []
