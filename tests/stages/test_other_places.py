"""Work that another device or other versions go on with: the numbers may differ, and that is said."""

from __future__ import annotations

import json
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
from small_pipeline import config, with_function

from rlp_engine.errors import Interrupted
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.runner import execute
from rlp_engine.stages.spec import StageContext


class Warnings(NullReporter):
    def __init__(self):
        self.texts = []

    def warn(self, text):
        self.texts.append(text)


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
    warnings = Warnings()
    (run_dir / "place").write_text(device + "; stopped" * is_stopped)
    with pytest.raises(Interrupted) if is_stopped else nullcontext():
        execute(run_dir, with_function(stages, 1, computing), config(), reporter=warnings)
    return warnings.texts


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
