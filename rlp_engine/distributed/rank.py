"""What this process is when a launcher started it: its place, its parent's line, its folder of logs. One a process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.distributed import world
from rlp_engine.distributed.launch_environment import Place, prepare_rank
from rlp_engine.distributed.parent import ATTEMPT, REASONS, ParentLine, call_parent


@dataclass
class RankProcess:
    """A rank of a launch. `reasons`: where it leaves its exit reason, None until that is known."""

    place: Place
    parent: ParentLine | None
    attempt: int  # number of the folder of logs that the parent made; 0 = rank 0 makes one
    reasons: Path | None

    @property
    def has_parent(self) -> bool:
        """An `rlp` started the launcher; it tells the user of errors and results."""
        return self.parent is not None

    def logs_are_in(self, folder: Path) -> None:
        """From now on reasons lie where the other machines see them too."""
        self.reasons = folder
        if self.parent:
            self.parent.reasons_in(folder)


_rank: RankProcess | None = None


def rank_process() -> RankProcess | None:
    """None in a process that no launcher started, and until `become_rank`."""
    return _rank


def become_rank(place: Place) -> RankProcess:
    """Call the parent, if an `rlp` started the launcher, and put the environment in order. Before torch is imported."""
    global _rank
    prepare_rank(place)
    parent = call_parent(os.environ, place.rank)
    folder = os.environ.get(REASONS)
    _rank = RankProcess(place, parent, int(os.environ.get(ATTEMPT, "0")), Path(folder) if folder else None)
    return _rank


def meet(rank: RankProcess) -> world.World:
    """Join the other ranks (world.join), and say so to the parent."""
    joined = world.join()
    import torch

    if not torch.cuda.is_available():  # no GPU that this torch can use, whatever the machine has
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if rank.parent:
        rank.parent.met()
    return joined
