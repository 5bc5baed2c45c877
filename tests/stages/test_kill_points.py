"""Promise 1: kill it anywhere, run again, and the outputs are those of a run that nobody killed.

Every change of a name and every file that is opened for writing is a point where the process is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
from small_pipeline import config, forked, outputs, pipeline, sigkill_at

from rlp_engine.run.clean import removable
from rlp_engine.run.events import MetricsLog
from rlp_engine.stages.plan import plan
from rlp_engine.stages.runner import execute
from rlp_engine.stages.selection import Selection

SIDE_FILES = {"events.jsonl", "logs", ".cache"}
UNTIL_SFT = Selection(until="sft")
pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def stages(tmp_path):
    (tmp_path / "rows.jsonl").write_text("b a c")
    time.sleep(2.1)  # digests of younger files are not remembered; here writing them down is to be killed too
    return pipeline(tmp_path / "rows.jsonl")


def killed_at_every_point(run_dir, prepare, work):
    """Yield (point, run directory) after `work` was killed there, until a point lies behind its end."""
    for point in range(1, 1000):
        shutil.rmtree(run_dir, ignore_errors=True)
        prepare(run_dir)

        def until_killed(point=point):
            sigkill_at(point, run_dir)
            work(run_dir)

        status = forked(until_killed)
        if status == 0:
            assert point > 30, "the process was hardly ever killed"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield point, run_dir
    raise AssertionError("there is no end to it")


def check_nothing_unfinished_looks_done(run_dir):
    for file in run_dir.rglob("stage.json"):
        stage = json.loads(file.read_text())
        for name, record in stage["outputs"].items():
            assert (file.parent / name).stat().st_size == record["bytes"], f"{file.parent.name}/{name} is not whole"


def test_a_first_run_killed_anywhere(tmp_path, stages):
    wanted_dir = tmp_path / "wanted"
    wanted_dir.mkdir()
    execute(wanted_dir, stages, config(), UNTIL_SFT)
    wanted = outputs(wanted_dir)
    metrics = MetricsLog(wanted_dir / "sft" / "metrics.jsonl").read()
    for point, run_dir in killed_at_every_point(
        tmp_path / "run", lambda folder: folder.mkdir(), lambda folder: execute(folder, stages, config(), UNTIL_SFT)
    ):
        check_nothing_unfinished_looks_done(run_dir)
        if not any(stage.is_due for stage in plan(run_dir, stages, config(), UNTIL_SFT)):
            (run_dir / "lock").unlink(
                missing_ok=True
            )  # killed after the last stage: a run in which nothing is due touches nothing
        execute(run_dir, stages, config(), UNTIL_SFT)
        assert outputs(run_dir) == wanted, point
        assert MetricsLog(run_dir / "sft" / "metrics.jsonl").read() == metrics, point
        assert not (run_dir / "superseded").exists(), f"killed at point {point}: a plain continuation moved work aside"
        assert removable(run_dir) == [], point
        assert {path.name for path in run_dir.iterdir()} == {*SIDE_FILES, "prepare", "sft"}, point


def test_a_run_that_replaces_finished_work_killed_anywhere(tmp_path, stages):
    done = tmp_path / "done"
    done.mkdir()
    execute(done, stages, config(), UNTIL_SFT)
    old = (done / "sft" / "model" / "config.json").read_bytes()
    new = config(sft={"epochs": 77})
    wanted_dir = tmp_path / "wanted"
    wanted_dir.mkdir()
    execute(wanted_dir, stages, new, UNTIL_SFT)
    wanted = outputs(wanted_dir)
    for point, run_dir in killed_at_every_point(
        tmp_path / "run",
        lambda folder: shutil.copytree(done, folder),
        lambda folder: execute(folder, stages, new, UNTIL_SFT),
    ):
        check_nothing_unfinished_looks_done(run_dir)
        assert plan(run_dir, stages, new, UNTIL_SFT)[1].will in ("run", "continue", "skip"), point
        execute(run_dir, stages, new, UNTIL_SFT)
        assert outputs(run_dir) == wanted, point
        kept = [file.read_bytes() for file in (run_dir / "superseded").glob("sft-*/model/config.json")]
        assert kept == [old], f"killed at point {point}: the old result must be kept, once"
