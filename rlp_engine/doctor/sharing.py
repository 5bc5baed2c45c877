"""What each of several ranks holds: DeepSpeed's ZeRO shares out a training stage's models, the others are copied.

In a training stage the trained models are one engine. Stage 1 shares out AdamW's moments and the float32 copy of the
weights, stage 2 the gradients too, stage 3 the weights too (Rajbhandari et al. 2020, arXiv:1910.02054). Frozen models
(reference, reward model, judge) are whole on every rank. Under stage 3 a rollout gathers policy and value model whole
on every rank, since each decodes its own answers. Every rank takes 1/N of each minibatch and rollout, in microbatches
of the config's size. Gradients are kept in the models' dtype; for the optimizer step a rank makes float32 ones of its
part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlp_engine.config.sections.model import DeepSpeedConfig

Shared = Literal["optimizer", "gradients", "weights"]
_FROM_STAGE: dict[Shared, int] = {"optimizer": 1, "gradients": 2, "weights": 3}
# DeepSpeed's defaults, in numbers: reduce_bucket_size and allgather_bucket_size; stage3_max_live_parameters.
BUCKET = 500_000_000
LIVE_PARAMETERS = 1_000_000_000


@dataclass(frozen=True)
class Sharing:
    """How many ranks work together, and what they share out. One rank is a run without a launcher."""

    ranks: int = 1
    zero_stage: int = 0
    optimizer_on_host: bool = False
    weights_on_host: bool = False

    @classmethod
    def of(cls, ranks: int, config: DeepSpeedConfig) -> Sharing:
        if ranks == 1:
            return cls()
        optimizer, weights = (key == "cpu" for key in (config.offload_optimizer, config.offload_parameters))
        return cls(ranks, config.zero_stage, optimizer, weights)

    def share(self, what: Shared, amount: int) -> int:
        """A rank's part of so many bytes, rounded up."""
        return -(-amount // self.ranks) if self.zero_stage >= _FROM_STAGE[what] else amount

    def is_on_host(self, what: Shared) -> bool:
        return {"optimizer": self.optimizer_on_host, "weights": self.weights_on_host}.get(what, False)

    def part(self, count: int) -> int:
        """A rank's part of so many rows, rounded up."""
        return -(-count // self.ranks)

    def buckets(self, trained: int, width: int) -> int:
        """Bytes that gradients and weights pass through on their way between ranks."""
        return 2 * min(BUCKET, trained) * width if self.zero_stage else 0

    def live(self, trained: int, width: int) -> int:
        """Stage 3: bytes of the weights that a pass has gathered at a time."""
        return min(LIVE_PARAMETERS, trained) * width if self.zero_stage == 3 else 0
