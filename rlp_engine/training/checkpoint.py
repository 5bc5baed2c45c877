"""Checkpoints: everything that a training stage needs to go on after a step.

    checkpoints/step_000120/
      tensors.safetensors     trained weights, AdamW's state, states of the random generators
      state.json              step, plain values, size and sha256 of the tensors
      COMPLETE                sha256 of state.json; written last

A folder without COMPLETE does not count. Digests are verified before anything is taken over.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlp_engine.distributed.world import world
from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run import faults
from rlp_engine.run.atomic import fsync, fsync_tree, rename
from rlp_engine.run.disk import Writing
from rlp_engine.run.events import parse_json

TENSORS, STATE, COMPLETE = "tensors.safetensors", "state.json", "COMPLETE"
_PARTIAL = ".partial"
_NAME = re.compile(r"step_(\d+)(\.partial)?")
_DAMAGED = (
    errno.EIO,
    errno.EISDIR,
    errno.ENOTDIR,
)  # of a disk, of a folder; other system errors are no damage


@dataclass(frozen=True)
class TaskState:
    """What a task needs to go on: tensors by name, and values that JSON can hold (floats come back exactly)."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified."""

    step: int
    saved: datetime
    state: TaskState


@dataclass(frozen=True)
class Search:
    """The newest good checkpoint of a folder, or None, and the newer ones that were passed over: (name, why)."""

    found: Checkpoint | None
    skipped: list[tuple[str, str]]


def save(folder: Path, step: int, state: TaskState, *, keep: int) -> Path:
    """Write `folder`/step_NNNNNN, then remove all but the newest `keep` whole checkpoints.

    Safe to kill at any point: COMPLETE comes last, and an older checkpoint goes only after that.

    Raises:
        DiskFullError: it does not fit on the disk; what was there before stands.
    """
    final = folder_of(folder, step)
    partial = folder / (final.name + _PARTIAL)
    for leftover in (partial, final):  # of this step, from a run that was killed here; or it failed its check
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    with Writing(final / TENSORS, sum(tensor.nbytes for tensor in state.tensors.values())):
        save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, partial / TENSORS)
        faults.wrote(partial / TENSORS)
    record = {
        "schema": 1,
        "step": step,
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        "values": dict(state.values),
        "tensors": {"sha256": _sha256(partial / TENSORS), "bytes": (partial / TENSORS).stat().st_size},
    }
    _write_text(partial / STATE, json.dumps(record, indent=1, allow_nan=False))
    fsync_tree(partial)
    rename(partial, final)
    _write_text(final / COMPLETE, _sha256(final / STATE))
    for path in (final / COMPLETE, final):
        fsync(path)
    _remove_old(folder, keep, final)
    return final


def _write_text(path: Path, text: str) -> None:
    data = text.encode()
    with Writing(path, len(data)):
        path.write_bytes(data)
        faults.wrote(path)


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint taken after a step is."""
    return folder / f"step_{step:06d}"


def newest(folder: Path) -> Search:
    """Look for the newest checkpoint that is whole and whose digests are right."""
    skipped = []
    for path in reversed(_folders(folder)):
        try:
            return Search(load(path), skipped)
        except CorruptArtifactError as error:
            skipped.append((path.name, error.found))
    return Search(None, skipped)


def load(path: Path, *, verify: bool = True) -> Checkpoint:
    """Read one checkpoint; without `verify` the digest of the tensors is not computed: another rank has done so.

    Raises:
        CorruptArtifactError: it is not whole, or a digest differs.
    """
    try:
        if (path / COMPLETE).read_bytes() != _sha256(path / STATE).encode():
            raise _corrupt(path, f"{STATE} has changed since it was saved")
        record = parse_json((path / STATE).read_bytes())
        if verify and record["tensors"]["sha256"] != _sha256(path / TENSORS):
            raise _corrupt(path, f"{TENSORS} has changed since it was saved")
        tensors = load_file(path / TENSORS)
        return Checkpoint(record["step"], datetime.fromisoformat(record["saved"]), TaskState(tensors, record["values"]))
    except FileNotFoundError as error:
        raise _corrupt(path, f"incomplete: no {Path(error.filename).name}") from error
    except SafetensorError as error:
        raise _corrupt(path, f"{TENSORS} does not read: {error}") from error
    except OSError as error:
        if error.errno not in _DAMAGED:
            raise
        raise _corrupt(path, f"{Path(error.filename or path).name} does not read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:  # its digest is right: somebody else wrote it
        raise _corrupt(path, f"{STATE} is not one of ours: {error!r}") from error


def random_states() -> dict[str, Tensor]:
    """The states of torch's generators, which dropout draws from, of every rank. Every rank has to ask."""
    own = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["random/cuda"] = torch.cuda.get_rng_state()
    return {
        name + _of_rank(rank): state
        for name, mine in own.items()
        for rank, state in enumerate(world().gather_tensors(mine))
    }


def restore_random_states(tensors: Mapping[str, Tensor]) -> None:
    """Set torch's generators. A checkpoint from another kind of device has only the CPU's; a rank that the
    checkpoint's world did not have keeps its own."""
    suffix = _of_rank(world().rank)
    if (state := tensors.get(f"random/cpu{suffix}")) is not None:
        torch.set_rng_state(state)
    if torch.cuda.is_available() and (state := tensors.get(f"random/cuda{suffix}")) is not None:
        torch.cuda.set_rng_state(state)


def _of_rank(rank: int) -> str:
    return f"/rank_{rank}" if rank else ""


def _folders(folder: Path) -> list[Path]:
    """Checkpoint folders, whole or not, oldest step first; of one step the half-written one first."""
    found = [(match, path) for path in folder.glob("*") if (match := _NAME.fullmatch(path.name))]
    found.sort(key=lambda pair: (int(pair[0][1]), pair[0][2] is None))
    return [path for _, path in found]


def _remove_old(folder: Path, keep: int, newest: Path) -> None:
    """Keep the newest `keep` up to `newest` that have COMPLETE; older ones and everything half-written go.

    Those of later steps go too: had they been good, the training would have continued from them.
    """
    found = _folders(folder)
    whole = [path for path in found[: found.index(newest) + 1] if (path / COMPLETE).exists()]
    for path in found:
        if path not in whole[-keep:]:
            shutil.rmtree(path)


def _corrupt(path: Path, found: str) -> CorruptArtifactError:
    return CorruptArtifactError(f"checkpoint {path.name} cannot be used", where=str(path), found=found)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
