"""What is made again, and what is refused: outputs that changed or are gone, stale inputs, force."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from small_pipeline import Lines, config, outputs

from rlp_engine.errors import ConfigError, CorruptArtifactError
from rlp_engine.run.verify import Verified, verify
from rlp_engine.stages.runner import execute
from rlp_engine.stages.selection import Selection

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


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
    assert verify(run_dir, [spec.name for spec in stages]) == Verified(7, [])


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


def test_verify_finds_what_sizes_do_not_show_and_all_of_it(run_dir, stages):
    execute(run_dir, stages, config())
    names = [spec.name for spec in stages]
    assert verify(run_dir, names) == Verified(7, [])
    weights = run_dir / "sft" / "model" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[::-1])
    error = verify(run_dir, names).error(run_dir)
    assert "model/weights.bin has other content" in error.what
    assert error.mend.endswith(f"rlp run {run_dir} --force sft")

    (run_dir / "sft" / "model" / "config.json").unlink()
    (run_dir / "evaluate" / "stage.json").write_text("{")
    found = verify(run_dir, names)
    assert [(one.stage, one.problem) for one in found.damage] == [
        ("sft", "model/config.json is missing"),
        ("sft", "model/weights.bin has other content than when it was made"),
        ("evaluate", "stage.json cannot be read"),
    ]
    assert found.error(run_dir).what == "3 outputs of 2 stages are damaged: sft, evaluate"
    assert found.error(run_dir).mend.endswith(f"rlp run {run_dir} --force sft --force evaluate")


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
