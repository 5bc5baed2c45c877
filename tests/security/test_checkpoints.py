"""A checkpoint from a stranger: its digests are right, and what it holds is a program."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch

from rlp_engine.training import checkpoint
from rlp_engine.training.checkpoint import COMPLETE, STATE, TENSORS, TaskState


class Program:
    """Writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("write", [lambda program, path: path.write_bytes(pickle.dumps(program)), torch.save])
def test_a_pickle_in_a_checkpoint_is_refused_and_does_not_run(write, tmp_path: Path) -> None:
    folder, victim = tmp_path / "checkpoints", tmp_path / "victim"
    made = checkpoint.save(folder, 3, TaskState({"weight/w": torch.ones(2)}), keep=2)
    write(Program(victim), made / TENSORS)
    state = json.loads((made / STATE).read_text())
    state["tensors"] = {
        "sha256": hashlib.sha256((made / TENSORS).read_bytes()).hexdigest(),
        "bytes": (made / TENSORS).stat().st_size,
    }
    (made / STATE).write_text(json.dumps(state))
    (made / COMPLETE).write_text(hashlib.sha256((made / STATE).read_bytes()).hexdigest())
    search = checkpoint.newest(folder)
    assert search.found is None
    assert "does not read" in search.skipped[0][1]
    assert not victim.exists()
    pickle.loads(pickle.dumps(Program(victim)))
    assert victim.exists()  # so it would have
