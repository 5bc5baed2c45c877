"""On a real file system that is full, the error names the file and how many bytes it has."""

import errno

import pytest
import torch

from rlp_engine.run.atomic import write_text
from rlp_engine.run.disk import DiskFullError, Writing
from rlp_engine.run.events import append_line
from rlp_engine.run.resources import as_resource_error
from rlp_engine.training import checkpoint
from rlp_engine.training.checkpoint import TaskState


def test_a_file_whose_size_is_known(small_disk):
    with pytest.raises(DiskFullError) as error:
        write_text(small_disk / "pairs.jsonl", "x" * 1_000_000)
    found = as_resource_error(error.value, "stage collect", small_disk)
    assert found.where == f"{small_disk / 'pairs.jsonl'}: it needs 1,000,000 bytes, 0.2 MiB free"
    assert found.exit_code == 6


def test_a_file_that_is_written_as_its_rows_come(small_disk):
    from rlp_engine.data.records import Prompt
    from rlp_engine.data.rows import write_jsonl

    with pytest.raises(DiskFullError) as error:
        write_jsonl(small_disk / "rows.jsonl", (Prompt(str(n), "x" * 1000) for n in range(1000)))
    where = as_resource_error(error.value, "stage prepare", small_disk).where
    assert where.startswith(f"{small_disk / 'rows.jsonl'}: it needs more than ")
    assert error.value.needed > 200_000


def test_a_line_that_is_appended(small_disk):
    (small_disk / "ballast").write_bytes(b"x" * 240 * 1024)
    with pytest.raises(DiskFullError) as error:
        append_line(small_disk / "metrics.jsonl", {"text": "x" * 50_000})
    assert error.value.filename == str(small_disk / "metrics.jsonl")
    assert error.value.needed == 50_000 + len('{"text": ""}\n')


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(small_disk):
    """safetensors has an error of its own for it."""
    first = TaskState({"weights": torch.zeros(10_000)})
    checkpoint.save(small_disk / "checkpoints", 1, first, keep=1)
    with pytest.raises(DiskFullError) as error:
        checkpoint.save(small_disk / "checkpoints", 2, TaskState({"weights": torch.zeros(60_000)}), keep=1)
    assert error.value.filename.endswith("step_000002/tensors.safetensors")
    assert error.value.needed == 240_000
    assert checkpoint.newest(small_disk / "checkpoints").found.step == 1
    checkpoint.save(small_disk / "checkpoints", 2, first, keep=1)
    assert checkpoint.newest(small_disk / "checkpoints").found.step == 2


def test_other_errors_pass_and_the_innermost_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no number"), Writing(tmp_path, 1):
        raise ValueError("no number")
    with pytest.raises(DiskFullError) as error, Writing(tmp_path, 1), Writing(tmp_path / "a", 2):
        raise OSError(errno.EDQUOT, "quota")
    assert (error.value.errno, error.value.needed) == (errno.EDQUOT, 2)
