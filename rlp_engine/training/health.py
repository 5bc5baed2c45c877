"""Alarms: numbers that are not finite stop a stage; a KL or a length out of hand is worth a warning."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rlp_engine.config.schema import HealthConfig
from rlp_engine.errors import HealthError


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Raises HealthError naming the first metric that is not finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise HealthError(f"{name} is {value}")


def check_tensors(**tensors: Tensor) -> None:
    """Raises HealthError naming the first tensor with entries that are not finite."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise HealthError(f"{count} of {tensor.numel()} entries of {name} are not finite")


class PpoAlarms:
    """Watches KL and length over the steps of one PPO stage, and warns when a limit is crossed, not at every step."""

    def __init__(self, config: HealthConfig) -> None:
        self._config = config
        self._first_length: float | None = None
        self._raised: list[str] = []

    def look(self, kl: float, length: float) -> list[str]:
        """Warnings after a step whose mean sequence KL is `kl` nats and whose mean length is `length` tokens."""
        if self._first_length is None:
            self._first_length = length
        growth = length / self._first_length if self._first_length else 1.0
        crossed = {}
        if self._config.max_kl and kl > self._config.max_kl:
            crossed["kl"] = (
                f"the KL from the SFT policy is {kl:.1f} nats a sequence (ppo.health.max_kl is {self._config.max_kl:g})"
            )
        if self._config.max_length_growth and growth > self._config.max_length_growth:
            crossed["length"] = (
                f"answers are {growth:.1f} times as long as at the first step "
                f"(ppo.health.max_length_growth is {self._config.max_length_growth:g}): "
                "the policy may be gaming the reward"
            )
        new = [text for kind, text in crossed.items() if kind not in self._raised]
        self._raised = list(crossed)
        return new

    def state(self) -> dict[str, object]:
        return {"first_length": self._first_length, "raised": self._raised}

    def restore(self, state: Mapping[str, object]) -> None:
        self._first_length = state["first_length"]
        self._raised = list(state["raised"])
