"""A stage that fails, a disk or a memory that is full, data that changes: real stages in real processes."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from small_pipeline import config, events, mounted, outputs, pipeline, uninterrupted, with_function

from rlp_engine.errors import CorruptArtifactError, DataError, ResourceError
from rlp_engine.run.lock import RunLock
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.plan import plan
from rlp_engine.stages.runner import execute
from rlp_engine.stages.selection import Selection
from rlp_engine.stages.spec import StageContext

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def failing(context: StageContext):
    (context.out / "half.txt").write_text("half")
    raise KeyError("no such word")


def full_disk(context: StageContext):
    with open("/dev/full", "w") as file:
        file.write("x")


def hungry(context: StageContext):
    raise MemoryError


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
