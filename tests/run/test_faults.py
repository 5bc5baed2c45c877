"""The faults that other tests rely on really happen, where they are asked for."""

import os
import signal

import pytest
from small_pipeline import forked

from rlp_engine.run import faults
from rlp_engine.run.atomic import is_temporary, write_text
from rlp_engine.run.disk import DiskFullError
from rlp_engine.run.events import append_line


@pytest.mark.parametrize(
    ("fault", "content", "leaves_temporary"),
    [("write:2", "old", True), ("fsync:3", "old", True), ("before:2", "old", True), ("after:2", "new", False)],
)
def test_a_process_ends_at_the_second_file_that_it_writes(tmp_path, fault, content, leaves_temporary):
    def work():
        faults.arm(fault)
        write_text(tmp_path / "a", "old")
        write_text(tmp_path / "a", "new")
        write_text(tmp_path / "a", "never")

    assert os.WTERMSIG(forked(work)) == signal.SIGKILL
    assert (tmp_path / "a").read_text() == content
    assert any(map(is_temporary, os.listdir(tmp_path))) == leaves_temporary


def test_a_line_is_torn_in_the_middle(tmp_path):
    def work():
        faults.arm("write:2")
        append_line(tmp_path / "log", {"n": 1})
        append_line(tmp_path / "log", {"n": 2})

    assert os.WTERMSIG(forked(work)) == signal.SIGKILL
    assert (tmp_path / "log").read_text() == '{"n": 1}\n{"n"'


def test_a_full_disk_fails_one_write_and_not_the_next(tmp_path):
    faults.arm("full:1")
    try:
        with pytest.raises(DiskFullError):
            write_text(tmp_path / "a", "old")
        assert os.listdir(tmp_path) == []
        write_text(tmp_path / "a", "old")
    finally:
        faults.arm("")


def test_a_fault_of_one_rank_leaves_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    faults.arm("full:1@0")
    try:
        write_text(tmp_path / "a", "old")
        faults.arm("full:1@1")
        with pytest.raises(DiskFullError):
            write_text(tmp_path / "a", "new")
    finally:
        faults.arm("")


@pytest.mark.parametrize("text", ["write", "write:", "write:0", "sync:1", "write:-1", "write:1@", "write:1@one"])
def test_what_names_no_point_is_refused(text):
    with pytest.raises(ValueError, match="want KIND:N"):
        faults.arm(text)
