"""What stages and policies are called on the page, and which colour each keeps in every figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rlp_engine.config.schema import METHODS

LABELS = {
    "sft": "SFT",
    "ppo": "PPO",
    "train-rm": "First reward model",
    "spg": "RLP-SPG",
    "uml": "RLP-UML",
    "uml+spg": "RLP-UML+SPG",
    "reseed": "Control",
    "mvi": "MVI",
    "infomax": "InfoMax",
    "cl": "CL",
    "select-all": "Select-All",
    "reward-pair": "Reward pair",
    "rlaif": "RLAIF",
}
NOTES = {"reseed": "reward model retrained on D alone with a new seed"}
SERIES = 8  # colours in style.css; later methods share the last


@dataclass(frozen=True)
class Name:
    """A stage's or policy's full name taken apart: "round-1/spg-kl0.05" -> round 1, method spg, KL coefficient 0.05."""

    full: str
    round: int
    method: str
    kl_coefficient: str = ""  # of a point of the curve; "" = the one of [ppo]

    @property
    def label(self) -> str:
        base = LABELS.get(self.method, self.method)
        if match := re.fullmatch(r"best-of-(\d+)", self.method):
            base = f"Best of {match[1]}"
        base = f"{base} (round {self.round})" if self.round > 1 else base
        return f"{base}, KL coefficient {self.kl_coefficient}" if self.kl_coefficient else base

    @property
    def note(self) -> str:
        return NOTES.get(self.method, "")


def parse(full: str) -> Name:
    branch, _, kl_coefficient = full.partition("-kl")
    parts = branch.split("/")
    match = re.fullmatch(r"round-(\d+)", parts[0])
    if match and len(parts) > 1:
        return Name(full, int(match[1]), parts[1], kl_coefficient)
    return Name(full, 0, parts[0], kl_coefficient)


def colours(names: Iterable[str]) -> dict[str, int]:
    """method -> number of its colour (1 to SERIES); 0 is the neutral one of baselines that are not trained.

    PPO comes first and the methods follow in the order of METHODS, so that a method keeps its colour
    through all figures of a page.
    """
    order = ["ppo", "train-rm", *METHODS]
    present = {parse(name).method for name in names}
    coloured = sorted((m for m in present if m in order), key=order.index)
    numbers: dict[str, int] = {"ppo": 1, "train-rm": 1}
    for method in coloured:
        if method not in numbers:
            numbers[method] = min(SERIES, len(set(numbers.values())) + 1)
    return {method: numbers.get(method, 0) for method in present}
