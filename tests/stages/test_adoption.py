"""A stage that another run has finished is taken from there: the same files, and whole at every moment."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
from small_pipeline import config, forked, outputs, pipeline, sigkill_at

from rlp_engine.run.attempt import complete
from rlp_engine.run.clean import removable
from rlp_engine.run.events import EventLog
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.verify import verify
from rlp_engine.stages.plan import plan
from rlp_engine.stages.runner import execute
from rlp_engine.stages.selection import Selection

STAGES = ["prepare", "sft", "round-1/spg/synthesize", "round-1/spg/ppo", "round-1/uml/ppo", "evaluate"]
pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def stages(tmp_path):
    (tmp_path / "rows.jsonl").write_text("b a c")
    return pipeline(tmp_path / "rows.jsonl")


@pytest.fixture
def first(tmp_path, stages):
    return new_run(tmp_path / "first", stages, config())


def new_run(run_dir, stages, settings, *others, selection=None):
    run_dir.mkdir(exist_ok=True)
    execute(run_dir, stages, settings, selection, adopt_from=others)
    return run_dir


def adopted(run_dir):
    return [row["stage"] for row in EventLog(run_dir / "events.jsonl").read() if row["event"] == "adopted"]


def test_the_same_work_is_adopted_and_other_work_is_done(tmp_path, stages, first):
    gamma = config(synthesize={"min_confidence": 0.25})
    second = new_run(tmp_path / "second", stages, gamma, first)
    assert adopted(second) == ["prepare", "sft", "round-1/uml/ppo"]
    alone = new_run(tmp_path / "alone", stages, gamma)
    assert outputs(second) == outputs(alone)
    assert not any(stage.is_due for stage in plan(second, stages, gamma))
    assert not verify(second, STAGES).damage
    assert removable(second) == []


def test_stage_json_names_the_run_that_did_the_work_through_a_chain_too(tmp_path, stages, first):
    second = new_run(tmp_path / "second", stages, config(synthesize={"min_confidence": 0.25}), first)
    third = new_run(tmp_path / "third", stages, config(synthesize={"min_confidence": 0.75}), second)
    for run_dir, stage in ((second, "sft"), (third, "sft"), (third, "round-1/uml/ppo")):
        record = json.loads((run_dir / stage / "stage.json").read_text())
        assert record["adopted_from"] == "../first"
    assert json.loads((third / "evaluate" / "stage.json").read_text())["adopted_from"] == ""
    original = complete(RunLayout(first), "sft").manifest
    assert complete(RunLayout(third), "sft").manifest.seconds == original.seconds
    assert (third / "sft" / "config.json").read_text() == (first / "sft" / "config.json").read_text()


def test_files_are_links_and_survive_the_other_run(tmp_path, stages, first):
    second = new_run(tmp_path / "second", stages, config(), first)
    assert adopted(second) == STAGES
    one, other = (run / "sft" / "model" / "weights.bin" for run in (first, second))
    assert one.stat().st_ino == other.stat().st_ino
    wanted = outputs(first)
    shutil.rmtree(first)
    assert outputs(second) == wanted
    assert not verify(second, STAGES).damage


def test_where_no_links_can_be_made_files_are_copied(tmp_path, stages, first, monkeypatch):
    def refuse(*_):
        raise PermissionError("this file system has no links")

    monkeypatch.setattr(os, "link", refuse)
    second = new_run(tmp_path / "second", stages, config(), first)
    assert adopted(second) == STAGES
    assert outputs(second) == outputs(first)
    one, other = (run / "sft" / "model" / "weights.bin" for run in (first, second))
    assert one.stat().st_ino != other.stat().st_ino


def test_a_damaged_file_is_found_by_its_digest_and_the_stage_is_made(tmp_path, stages, first):
    weights = first / "sft" / "model" / "weights.bin"
    good = weights.read_bytes()
    weights.write_bytes(b"x" * len(good))  # the same size: only its content tells
    second = new_run(tmp_path / "second", stages, config(), first)
    assert "sft" not in adopted(second)
    assert (second / "sft" / "model" / "weights.bin").read_bytes() == good
    [event] = [row for row in EventLog(second / "events.jsonl").read() if row["event"] == "not adopted"]
    assert event["stage"] == "sft"
    assert removable(second) == []


def test_a_forced_stage_is_made_and_not_adopted(tmp_path, stages, first):
    second = new_run(tmp_path / "second", stages, config(), first)
    execute(second, stages, config(), Selection(only="sft", force="sft"), adopt_from=[first])
    assert json.loads((second / "sft" / "stage.json").read_text())["adopted_from"] == ""


def test_what_was_there_before_is_kept_aside(tmp_path, stages, first):
    second = new_run(tmp_path / "second", stages, config(sft={"epochs": 77}), selection=Selection(until="sft"))
    old = (second / "sft" / "model" / "config.json").read_bytes()
    execute(second, stages, config(), adopt_from=[first])
    assert adopted(second) == [name for name in STAGES if name != "prepare"]
    [kept] = (second / "superseded").glob("sft-*/model/config.json")
    assert kept.read_bytes() == old


def test_killed_anywhere_nothing_is_half_adopted_and_the_next_run_finishes(tmp_path, stages, first):
    wanted = outputs(first)
    until = Selection(until="sft")
    wanted = {path: digest for path, digest in wanted.items() if path.split("/")[0] in ("prepare", "sft")}
    for point in range(1, 200):
        second = tmp_path / "second"
        shutil.rmtree(second, ignore_errors=True)
        second.mkdir()

        def until_killed(point=point, second=second):
            sigkill_at(point, second)
            execute(second, stages, config(), until, adopt_from=[first])

        status = forked(until_killed)
        for file in second.rglob("stage.json"):
            if not any(part.endswith(".tmp") for part in file.relative_to(second).parts):
                for name, record in json.loads(file.read_text())["outputs"].items():
                    assert (file.parent / name).stat().st_size == record["bytes"], point
        if status == 0:
            assert point > 15, "the process was hardly ever killed"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        if not any(stage.is_due for stage in plan(second, stages, config(), until)):
            (second / "lock").unlink(missing_ok=True)
        execute(second, stages, config(), until, adopt_from=[first])
        assert outputs(second) == wanted, point
        for name in ("prepare", "sft"):
            assert json.loads((second / name / "stage.json").read_text())["adopted_from"] == "../first", point
        assert not (second / "superseded").exists(), point
        assert removable(second) == [], point
    raise AssertionError("there is no end to it")
