import os
import signal
import subprocess

import pytest
from small_pipeline import forked, sigkill_at

from rlp_engine.run.atomic import (
    committed_dir,
    is_temporary,
    remove_temporaries,
    remove_temporaries_of,
    write_bytes,
    write_json,
    write_text,
    write_whole,
)


def test_a_writer_killed_at_any_point_leaves_the_old_bytes_or_the_new_ones(tmp_path):
    seen = set()
    for point in range(1, 10):
        file = tmp_path / str(point) / "a.txt"
        file.parent.mkdir()
        file.write_text("old")

        def work(point=point, file=file):
            sigkill_at(point, tmp_path)
            write_text(file, "new")

        status = forked(work)
        seen.add((os.WIFSIGNALED(status), file.read_text()))
        remove_temporaries(file.parent)
        assert os.listdir(file.parent) == ["a.txt"]
    assert seen == {(True, "old"), (False, "new")}


def test_temporaries_of_every_kind_go_and_nothing_else(tmp_path):
    (tmp_path / "sub" / ".model.7-0.tmp").mkdir(parents=True)
    (tmp_path / "sub" / ".model.7-0.tmp" / "a").write_text("1")
    (tmp_path / ".latest.7-1.tmp").symlink_to(tmp_path / "sub")
    for name in (".b.7-2.tmp", ".hidden", "c.tmp"):
        (tmp_path / "sub" / name).write_text("1")
    remove_temporaries(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "sub",
        "sub/.hidden",
        "sub/c.tmp",
    ]


def test_of_one_file_only_what_dead_writers_left_goes(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = ended.pid
    names = [f".a.html.{dead}-0.tmp", f".a.html.{os.getpid()}-0.tmp", f".b.html.{dead}-0.tmp", "a.html"]
    for name in names:
        (tmp_path / name).write_text("1")
    remove_temporaries_of(tmp_path / "a.html")
    assert set(os.listdir(tmp_path)) == set(names[1:])


def test_an_error_in_the_writer_leaves_the_old_file_and_no_temporary(tmp_path):
    file = tmp_path / "a.bin"
    write_bytes(file, b"old")

    def half(path):
        path.write_bytes(b"ha")
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        write_whole(file, half)
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path, small_disk):
    file = small_disk / "a.bin"
    write_bytes(file, b"old")
    with pytest.raises(OSError, match="No space left"):
        write_bytes(file, b"x" * 10_000_000)
    assert file.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["a.bin"]


def test_files_are_as_readable_as_others_that_this_user_makes(tmp_path):
    write_text(tmp_path / "ours", "a")
    (tmp_path / "plain").write_text("a")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_has_no_word_for_nan(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_committed_folder_appears_when_it_is_whole_and_not_before(tmp_path):
    with committed_dir(tmp_path / "deep" / "model") as part:
        (part / "a").write_text("1")
        (part / "sub").mkdir()
        (part / "sub" / "b").write_text("2")
        assert not (tmp_path / "deep" / "model").exists()
        assert is_temporary(part.name)
    assert (tmp_path / "deep" / "model" / "sub" / "b").read_text() == "2"
    assert os.listdir(tmp_path / "deep") == ["model"]


def test_a_folder_whose_making_fails_never_appears(tmp_path):
    with pytest.raises(FileNotFoundError), committed_dir(tmp_path / "model") as part:
        (part / "not there" / "a").write_text("1")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(FileExistsError), committed_dir(tmp_path / "model"):
        pass


def test_a_folder_killed_half_way_is_a_temporary(tmp_path):
    def work():
        with committed_dir(tmp_path / "model") as part:
            (part / "a").write_text("1")
            os.kill(os.getpid(), signal.SIGKILL)

    forked(work)
    assert [is_temporary(name) for name in os.listdir(tmp_path)] == [True]
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == []
