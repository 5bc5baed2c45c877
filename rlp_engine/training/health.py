"""Numbers that are not finite stop a stage; a policy that seems to game its reward is worth an alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rlp_engine.config.sections.ppo import HealthConfig
from rlp_engine.errors import HealthError

GAMING = "the policy may be gaming the reward"


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
    """Compares the metrics of a PPO stage's last step with the limits of `ppo.health`.

    Which limits are passed is a function of the state and the config alone: a stage that an alarm stopped
    stops again at once until the config says otherwise, and goes on when it does.
    """

    def __init__(self, config: HealthConfig, agreement_pairs: int = 0) -> None:
        """`agreement_pairs`: how many pairs held_out_agreement is a share of; 0 = it is not measured."""
        self._config = config
        self._chance = 1 / math.sqrt(agreement_pairs) if agreement_pairs else 0.0  # two standard errors of one half
        self._first: dict[str, float] = {}  # metrics of the first step
        self._last: dict[str, float] = {}
        self._best: dict[str, float] = {}  # held_out_agreement where it was highest, and the score then
        self._agreed: dict[str, float] = {}  # the same where it was measured last
        self._raised: list[str] = []

    def look(self, metrics: Mapping[str, float]) -> list[str]:
        """Take in a step's metrics; a warning for every limit that it passes and the step before did not.

        Args:
            metrics: kl (nats a sequence, by the estimator in the reward), length (tokens), eos_share, entropy
                (nats a token), distinct_2, score; and held_out_agreement at the steps that measure it.
        """
        self._last = {name: metrics[name] for name in ("kl", "length", "eos_share", "entropy", "distinct_2")}
        self._first = self._first or self._last
        if "held_out_agreement" in metrics:
            self._agreed = {name: metrics[name] for name in ("held_out_agreement", "score")}
            if not self._best or self._agreed["held_out_agreement"] > self._best["held_out_agreement"]:
                self._best = self._agreed
        passed = self._passed()
        new = [key for key in passed if key not in self._raised and key not in self._config.stop]
        self._raised = list(passed)
        return [f"{passed[key]}. To stop on this: --set {self._with_stop(key)}" for key in new]

    def must_stop(self) -> str:
        """What ends the stage: the limits named in `ppo.health.stop` that are passed; "" = none."""
        return "; ".join(text for key, text in self._passed().items() if key in self._config.stop)

    def _with_stop(self, key: str) -> str:
        keys = ",".join(f'"{one}"' for one in (*self._config.stop, key))
        return f"'ppo.health.stop=[{keys}]'"

    def _passed(self) -> dict[str, str]:
        """Key of each limit that the last step passes -> what is wrong, in words."""
        if not self._last:
            return {}
        growth = _ratio(self._last["length"], self._first["length"])
        found = {
            "max_kl": (self._last["kl"], f"the KL from the SFT policy is {self._last['kl']:.1f} nats a sequence"),
            "max_length_growth": (growth, f"answers are {growth:.1f} times as long as at the first step: {GAMING}"),
            "max_eos_drop": (
                self._first["eos_share"] - self._last["eos_share"],
                f"{self._last['eos_share']:.0%} of the answers end in EOS, {self._first['eos_share']:.0%} did at first",
            ),
            "max_entropy_drop": (
                1.0 - _ratio(self._last["entropy"], self._first["entropy"]),
                f"the entropy fell from {self._first['entropy']:.3g} to {self._last['entropy']:.3g} nats a token: "
                "the policy hardly varies its answers any more",
            ),
            "max_distinct_drop": (
                1.0 - _ratio(self._last["distinct_2"], self._first["distinct_2"]),
                f"the share of different bigrams fell from {self._first['distinct_2']:.3g} to "
                f"{self._last['distinct_2']:.3g}: answers repeat themselves or one another",
            ),
        } | self._disagreement()
        limits = {key: getattr(self._config, key) for key in found}
        return {
            key: f"{text} (ppo.health.{key} is {limits[key]:g})"
            for key, (value, text) in found.items()
            if limits[key] and value > limits[key]
        }

    def _disagreement(self) -> dict[str, tuple[float, str]]:
        """How far the agreement with held-out pairs has fallen while the score rose."""
        if not self._agreed or self._agreed["score"] <= self._best["score"]:
            return {}
        before, now = self._best["held_out_agreement"], self._agreed["held_out_agreement"]
        text = (
            f"the policy agrees with {now:.0%} of the held-out pairs, and did with {before:.0%}, while the score rose "
            f"from {self._best['score']:.3g} to {self._agreed['score']:.3g}: {GAMING}"
        )
        return {"max_agreement_drop": (before - now if before - now > self._chance else 0.0, text)}

    def state(self) -> dict[str, object]:
        return {
            "first": self._first,
            "last": self._last,
            "best": self._best,
            "agreed": self._agreed,
            "raised": self._raised,
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Take over what `state` returned. A checkpoint of an older version lacks most of it: the next step is then
        taken for the first."""
        self._first = dict(state.get("first", {}))
        self._last = dict(state.get("last", {}))
        self._best = dict(state.get("best", {}))
        self._agreed = dict(state.get("agreed", {}))
        self._raised = list(state["raised"])


def _ratio(now: float, first: float) -> float:
    """now / first; 1 where there was nothing at first."""
    return now / first if first else 1.0
