import errno
import os

import pytest
import torch

from rlp_engine.errors import ResourceError
from rlp_engine.run.resources import (
    ResourcesInWords,
    as_resource_error,
    peak_memory_bytes,
    release_memory,
    reset_peak_memory,
    resident_memory_bytes,
)


def error_of(work) -> BaseException:
    try:
        work()
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        return error
    raise AssertionError("it went well")


def write_to_a_full_disk():
    with open("/dev/full", "w") as file:
        file.write("x")


def test_a_full_disk_is_told_with_where_and_what_to_do(tmp_path):
    found = as_resource_error(error_of(write_to_a_full_disk), "stage ppo", tmp_path / "not" / "there")
    assert found.what == "no space left on the disk (stage ppo)"
    assert "MiB free" in found.where
    assert "rlp clean" in found.mend
    assert found.exit_code == 6


def test_a_full_disk_is_known_by_its_words_too(tmp_path):
    from safetensors import SafetensorError

    error = SafetensorError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })')
    assert "disk" in as_resource_error(error, "stage ppo", tmp_path).what


def test_torch_out_of_memory_names_the_keys_to_lower(tmp_path):
    error = error_of(lambda: torch.empty(2**60, dtype=torch.uint8))
    found = as_resource_error(error, "stage ppo", tmp_path, ["ppo.microbatch (now 8)"])
    assert found.what == "out of memory (stage ppo)"
    assert found.mend == "lower ppo.microbatch (now 8), then run again: it continues"


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "x"), torch.OutOfMemoryError("CUDA")])
def test_other_ways_to_run_out_of_memory(error, tmp_path):
    assert "memory" in as_resource_error(error, "stage ppo", tmp_path).what


def test_an_output_that_may_not_be_written_is_ours_and_an_input_that_may_not_be_read_is_not(tmp_path):
    def denied(name):
        return OSError(errno.EACCES, os.strerror(errno.EACCES), name)

    assert "cannot write" in as_resource_error(denied(str(tmp_path / "a")), "stage ppo", tmp_path).what
    assert as_resource_error(denied("/elsewhere/a"), "stage ppo", tmp_path) is None


def test_a_run_that_is_moved_while_it_works_is_no_bug(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with (
        pytest.raises(ResourceError, match="the run directory is gone") as error,
        ResourcesInWords("x", tmp_path / "run"),
    ):
        (tmp_path / "run" / "metrics.jsonl").write_text("1")
    assert error.value.where == str(tmp_path / "run")
    there = as_resource_error(FileNotFoundError(2, "No such file", "missing"), "x", tmp_path)
    assert there is None


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), OSError(errno.ENOENT, "gone", "a")])
def test_other_errors_are_left_as_they_are(error, tmp_path):
    assert as_resource_error(error, "stage ppo", tmp_path) is None
    with pytest.raises(type(error)), ResourcesInWords("stage ppo", tmp_path):
        raise error


def test_the_original_error_is_kept_as_the_cause(tmp_path):
    with pytest.raises(ResourceError) as error, ResourcesInWords("stage ppo", tmp_path):
        write_to_a_full_disk()
    assert error.value.__cause__.errno == errno.ENOSPC


def test_peak_memory_is_of_the_time_since_the_last_reset():
    reset_peak_memory()
    before = peak_memory_bytes()
    block = bytearray(64 * 2**20)
    assert peak_memory_bytes() > before + 50 * 2**20
    del block
    reset_peak_memory()
    assert peak_memory_bytes() < before + 30 * 2**20


def test_memory_that_only_a_cycle_holds_is_given_back():
    """A freed block below a live one stays with glibc, and a cycle stays until the collector comes."""
    blocks = [bytearray(64 * 1024) for _ in range(1024)]  # small: from the heap
    keeper = blocks[-1]
    cycle = {"blocks": blocks}
    cycle["self"] = cycle
    del blocks, cycle
    held = resident_memory_bytes()
    release_memory()
    assert resident_memory_bytes() < held - 40 * 2**20
    assert len(keeper) == 64 * 1024
