import os
import signal

import pytest
from small_pipeline import forked

from rlp_engine.errors import RunLockedError
from rlp_engine.run.clean import removable, remove, sweep
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.lock import RunLock


@pytest.fixture
def run_dir(tmp_path):
    files = {
        "sft/model/weights.bin": 10,
        "sft/stage.json": 2,
        "superseded/sft-20260101T000000Z/model/weights.bin": 30,
        "superseded/round-1/spg/ppo.partial-20260101T000000Z-2/checkpoints/step_000001/a": 40,
        "ppo.partial/checkpoints/step_000001/a": 50,
        "ppo.partial/.model.bin.77-0.tmp": 60,
        ".cache/digests.json": 70,
        ".cache/nli/0123.jsonl": 80,
        "events.jsonl": 1,
    }
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    return tmp_path


def listed(run_dir, **options):
    return {str(item.path.relative_to(run_dir)): (item.kind, item.bytes) for item in removable(run_dir, **options)}


def test_what_nobody_needs_is_listed_and_checkpoints_of_unfinished_work_only_on_request(run_dir):
    without = {
        "superseded/sft-20260101T000000Z": ("superseded", 30),
        "superseded/round-1/spg/ppo.partial-20260101T000000Z-2": ("superseded", 40),
        "ppo.partial/.model.bin.77-0.tmp": ("temporary", 60),
    }
    assert listed(run_dir) == without
    assert listed(run_dir, checkpoints=True) == without | {"ppo.partial/checkpoints": ("checkpoints", 50)}
    assert listed(run_dir, answers=True) == without | {".cache/nli": ("answers", 80)}


def test_removing_frees_what_was_said_and_touches_nothing_else(run_dir):
    assert remove(run_dir, removable(run_dir, checkpoints=True)) == 180
    assert listed(run_dir, checkpoints=True) == {}
    assert (run_dir / "sft" / "model" / "weights.bin").stat().st_size == 10
    assert not (run_dir / "superseded").exists()
    assert (run_dir / "ppo.partial").is_dir()


def test_nothing_is_removed_while_a_process_works_on_the_run(run_dir):
    items = removable(run_dir)

    def other():
        with pytest.raises(RunLockedError):
            remove(run_dir, items)

    with RunLock(run_dir / "lock"):
        assert forked(other) == 0
    assert len(removable(run_dir)) == len(items)


def killed_while_it_saved(run_dir):
    """What a process leaves that gets SIGKILL when all its stages are done."""
    child = os.fork()
    if child == 0:
        with RunLock(run_dir / "lock"):
            (run_dir / ".cache" / ".digests.json.77-0.tmp").write_text("{")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_a_process_left_that_was_killed_at_its_end_is_swept_away(run_dir):
    before = sorted(run_dir.rglob("*"))
    killed_while_it_saved(run_dir)
    assert (run_dir / "lock").exists()
    sweep(RunLayout(run_dir))
    assert sorted(run_dir.rglob("*")) == before


def test_nothing_is_swept_under_a_process_that_works(run_dir):
    (run_dir / ".cache" / ".digests.json.77-0.tmp").write_text("{")
    with RunLock(run_dir / "lock"):
        before = sorted(run_dir.rglob("*"))
        assert forked(lambda: sweep(RunLayout(run_dir))) == 0
        assert sorted(run_dir.rglob("*")) == before


def test_a_path_outside_the_run_is_refused(run_dir):
    item = removable(run_dir)[0]
    inside = run_dir / "sft"
    with pytest.raises(AssertionError, match="not below"):
        remove(inside, [item])
