"""The processes that work on a run together: who is who, and how they agree.

Without a launcher the world is one process, and every function here returns at once without torch.
Messages between ranks are JSON and plain tensors: nothing is pickled, and a rank never executes what another sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    import torch

# A rank may wait for hours while another finishes a long shard. A rank that has died is noticed at once
# by its closed connection, or by the launcher, which ends the others.
TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class World:
    """This process's place among those of the run.

    Attributes:
        rank: 0 to size - 1; rank 0 leads: it alone plans, locks, renames and reports.
        local_rank: among the processes of this machine; the index of its GPU.
        launched: a launcher started this process, so training runs on DeepSpeed's engine, even in a world of one.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launched: bool = False

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Is the flag up at one rank or more? Every rank has to ask."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers. Every rank has to ask."""
        return max(self.gather(number))

    def broadcast(self, value: Any = None) -> Any:
        """What rank 0 gave, at every rank; a value that JSON can hold."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        data = json.dumps(value).encode() if self.is_leader else b""
        length = torch.tensor([len(data)])
        dist.broadcast(length, 0)
        buffer = torch.empty(int(length.item()), dtype=torch.uint8)
        if self.is_leader:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
        return json.loads(buffer.numpy().tobytes()) if not self.is_leader else value

    def gather(self, value: Any) -> list[Any]:
        """What every rank gave, by rank, at every rank; values that JSON can hold."""
        if self.size == 1:
            return [value]
        import torch

        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(part.numpy().tobytes()) for part in self.gather_tensors(data)]

    def gather_tensors(self, tensor_N: torch.Tensor) -> list[torch.Tensor]:
        """The ranks' vectors, by rank, at every rank. They may differ in length, not in dtype; they come on the CPU."""
        if self.size == 1:
            return [tensor_N.cpu()]
        import torch
        import torch.distributed as dist

        own_N = tensor_N.detach().cpu()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([own_N.numel()]))
        longest = max(int(length.item()) for length in lengths)
        padded = torch.zeros(longest, dtype=own_N.dtype)
        padded[: own_N.numel()] = own_N
        parts = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part[: int(length.item())] for part, length in zip(parts, lengths, strict=True)]

    def share(self, count: int) -> range:
        """This rank's part of `count` things: consecutive, and as even as can be."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def owner(self, index: int, count: int) -> int:
        """The rank whose share of `count` things holds the one at `index`."""
        return (self.size * (index + 1) - 1) // count


_world = World()


def world() -> World:
    """The world of this process; one process until `join` was called."""
    return _world


def join(environment: Mapping[str, str] | None = None) -> World:
    """Meet the other ranks that a launcher started; `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`
    say who we are. Without them nothing happens. A second call changes nothing.

    Raises:
        ConfigError: the variables are there and make no sense.
    """
    global _world
    environment = os.environ if environment is None else environment
    if _world.launched or "WORLD_SIZE" not in environment:
        return _world
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is set and {missing[0]} is not: no launcher's environment is like that",
            mend="start through a launcher, or unset WORLD_SIZE",
        )
    import torch
    import torch.distributed as dist

    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    local_rank = int(environment.get("LOCAL_RANK", 0))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"  # what ranks tell one another goes over CPU tensors everywhere
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT)
    _world = World(rank, size, local_rank, launched=True)
    return _world


def leave() -> None:
    """Part from the other ranks, at the end of the process."""
    global _world
    if _world.launched:
        import torch.distributed as dist

        dist.destroy_process_group()
        _world = World()
