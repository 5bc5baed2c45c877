"""The arms of uml_study.py: what is changed in each, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LADDER = (1, 2, 3, 4, 6, 10)  # epochs of the runs on D alone


@dataclass(frozen=True)
class Arm:
    """One way to refine. `multi_view` changes keys of the preset's [refine_rm.multi_view]; None = D alone."""

    multi_view: dict[str, Any] | None = None
    views: str = "answers"
    hard_negatives: str = "none"
    epochs: int = 3
    start: str = "sft"


ARMS = {f"D {epochs}": Arm(epochs=epochs) for epochs in LADDER} | {
    "uml": Arm({}),
    "lambda .1": Arm({"weight": 0.1}),
    "lambda .02": Arm({"weight": 0.02}),
    "beta_end 0": Arm({"beta_end": 0.0}),
    "beta_end .1": Arm({"beta_end": 0.1}),
    "as written": Arm({"normalise": "none", "warmup_steps": 0, "beta_ramp": 0.0}),
    "not standardised": Arm({"normalise": "none"}),
    "placebo": Arm({}, views="placebo"),
    "same-meaning": Arm({}, views="same-meaning"),
    "same-meaning, hard": Arm({}, views="same-meaning", hard_negatives="also"),
    "same-meaning, hard only": Arm({}, views="same-meaning", hard_negatives="only"),
    "wordings": Arm({}, views="wordings"),
    "wordings, hard": Arm({}, views="wordings", hard_negatives="also"),
    "wordings, hard only": Arm({}, views="wordings", hard_negatives="only"),
    "wordings, hard only, lambda .1": Arm({"weight": 0.1}, views="wordings", hard_negatives="only"),
    "from train-rm, D 3": Arm(start="train-rm"),
    "from train-rm, not standardised": Arm({"normalise": "none"}, start="train-rm"),
    "from train-rm, uml": Arm({}, start="train-rm"),
    "uml, 10 epochs": Arm({}, epochs=10),
}
CONTROLS = [arm for arm in ARMS.values() if arm.multi_view is None and arm.start == "sft"]
