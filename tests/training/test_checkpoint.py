import hashlib
import shutil

import pytest
import torch

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.training import checkpoint
from rlp_engine.training.checkpoint import TaskState


def state(number):
    tensors = {
        "weights": torch.full((2, 3), float(number)),
        "half": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "count": torch.tensor(3.0),
    }
    return TaskState(tensors, {"third": 1 / 3, "tiny": 5e-324, "names": ["é"]})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def two(tmp_path):
    """Checkpoints of steps 1 and 2."""
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    return tmp_path


def test_everything_comes_back_bit_for_bit(two):
    search = checkpoint.newest(two)
    assert search.found.step == 2
    assert search.found.state.values == state(2).values
    for name, tensor in state(2).tensors.items():
        assert search.found.state.tensors[name].dtype == tensor.dtype
        assert torch.equal(search.found.state.tensors[name], tensor)


def test_a_transposed_tensor_is_saved_as_it_reads(tmp_path):
    wide = torch.arange(6.0).reshape(2, 3).T
    checkpoint.save(tmp_path, 1, TaskState({"wide": wide}), keep=2)
    assert torch.equal(checkpoint.newest(tmp_path).found.state.tensors["wide"], wide)


def test_no_checkpoint_is_not_an_error(tmp_path):
    assert checkpoint.newest(tmp_path / "never made") == checkpoint.Search(None, [])


def test_one_that_is_not_complete_is_passed_over_and_named(two):
    (two / "step_000002" / "COMPLETE").unlink()
    search = checkpoint.newest(two)
    assert search.found.step == 1
    assert search.skipped == [("step_000002", "incomplete: no COMPLETE")]


def test_a_half_written_folder_is_passed_over(two):
    shutil.copytree(two / "step_000002", two / "step_000003.partial")
    (two / "step_000003.partial" / "COMPLETE").unlink()
    search = checkpoint.newest(two)
    assert search.found.step == 2
    assert [name for name, _ in search.skipped] == ["step_000003.partial"]


@pytest.mark.parametrize("bit", [1, 128])  # 128: no UTF-8 any more
@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "COMPLETE"])
def test_a_changed_byte_is_found_and_the_one_before_is_taken(two, file, bit):
    path = two / "step_000002" / file
    data = bytearray(path.read_bytes())
    data[-2] ^= bit
    path.write_bytes(data)
    search = checkpoint.newest(two)
    assert search.found.step == 1
    changed = "state.json" if file == "COMPLETE" else file
    assert search.skipped == [("step_000002", f"{changed} has changed since it was saved")]


@pytest.mark.parametrize("text", ["[1]", "{}", "[" * 100_000, "\udcff"])
def test_a_stranger_s_state_with_the_right_digest_is_passed_over(two, text):
    path = two / "step_000002" / "state.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    (path.parent / "COMPLETE").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    search = checkpoint.newest(two)
    assert search.found.step == 1
    assert "state.json is not one of ours" in search.skipped[0][1]


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "COMPLETE"])
def test_a_file_that_became_a_folder_is_passed_over(two, file):
    path = two / "step_000002" / file
    path.unlink()
    path.mkdir()
    search = checkpoint.newest(two)
    assert search.found.step == 1
    assert search.skipped == [("step_000002", f"{file} does not read: Is a directory")]


def test_the_newest_are_kept_and_half_written_ones_go(two):
    (two / "step_000002.partial").mkdir()
    checkpoint.save(two, 10, state(10), keep=2)
    assert names(two) == ["step_000002", "step_000010"]


def test_an_incomplete_one_does_not_count_among_those_kept(two):
    (two / "step_000002" / "COMPLETE").unlink()
    checkpoint.save(two, 3, state(3), keep=2)
    assert names(two) == ["step_000001", "step_000003"]


def test_a_damaged_one_of_a_later_step_does_not_push_a_good_one_out(two):
    """Continued from step 1 with other steps to save at."""
    (two / "step_000002" / "tensors.safetensors").write_bytes(b"")
    shutil.copytree(two / "step_000002", two / "step_000009")
    checkpoint.save(two, 3, state(3), keep=1)
    assert names(two) == ["step_000003"]


def test_the_step_of_a_damaged_checkpoint_can_be_saved_again(two):
    (two / "step_000002" / "tensors.safetensors").write_bytes(b"")
    checkpoint.save(two, 2, state(7), keep=2)
    assert checkpoint.newest(two).found.state.tensors["weights"][0, 0] == 7


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (999_999, 1_000_000):
        checkpoint.save(tmp_path, step, state(1), keep=2)
    assert checkpoint.newest(tmp_path).found.step == 1_000_000


def test_load_names_the_folder(tmp_path):
    with pytest.raises(CorruptArtifactError) as raised:
        checkpoint.load(tmp_path / "step_000001")
    assert raised.value.where.endswith("step_000001")
