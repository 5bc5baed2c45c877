"""A training process is killed as by a power cut; the next one ends with the weights of one that never stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training.tiny_tasks import TASKS, Recorder, train

from rlp_engine.errors import Interrupted
from rlp_engine.run.events import MetricsLog
from rlp_engine.run.signals import StopSignal

KILLED_AFTER = 5  # steps; the newest checkpoint is then that of step 4


@pytest.fixture(scope="module")
def killed(folder, tmp_path_factory):
    """A folder with, for each task, what its killed process left."""
    outs = tmp_path_factory.mktemp("killed")
    script = str(Path(__file__).with_name("tiny_tasks.py"))
    subprocess.run([sys.executable, script, str(folder), str(outs), str(KILLED_AFTER)], check=True, timeout=300)
    return outs


def without_wall_times(rows):
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


@pytest.mark.parametrize("name", TASKS)
def test_a_killed_process_continues_to_the_same_weights_and_metrics(name, folder, killed, tmp_path):
    straight, resumed, reporter = TASKS[name](folder), TASKS[name](folder), Recorder()
    train(straight, tmp_path)
    train(resumed, killed / name, reporter=reporter)

    assert "continuing at step 4 of" in reporter.lines[0]
    expected, found = straight.state(), resumed.state()
    assert expected.values == found.values
    assert expected.tensors.keys() == found.tensors.keys()
    assert all(torch.equal(found.tensors[key], expected.tensors[key]) for key in expected.tensors)
    rows = [MetricsLog(out / "metrics.jsonl").read() for out in (tmp_path, killed / name)]
    assert [row["step"] for row in rows[1]] == list(range(1, resumed.total_steps + 1))
    assert without_wall_times(rows[0]) == without_wall_times(rows[1])


def test_ctrl_c_finishes_the_step_checkpoints_and_exits_with_130(folder, tmp_path):
    def press_ctrl_c(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with StopSignal() as stop, pytest.raises(Interrupted) as raised:
        train(TASKS["sft"](folder), tmp_path / "out", stop=stop, after_step=press_ctrl_c, every_steps=50)
    assert raised.value.exit_code == 130
    straight, resumed = TASKS["sft"](folder), TASKS["sft"](folder)
    train(straight, tmp_path / "straight")
    reporter = Recorder()
    train(resumed, tmp_path / "out", reporter=reporter)
    assert "continuing at step 3 of" in reporter.lines[0]
    expected = straight.state().tensors
    assert all(torch.equal(tensor, expected[key]) for key, tensor in resumed.state().tensors.items())
