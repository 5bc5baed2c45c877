"""The judge that a config names, for labels (`collect`), for choosing a checkpoint (`ppo`) and for `evaluate`."""

from __future__ import annotations

from typing import Any

import torch

from rlp_engine.config.schema import JudgeConfig
from rlp_engine.evaluation.judges import GoldJudge, Judge, RewardModelJudge
from rlp_engine.run.reporting import short
from rlp_engine.sandbox.data import World
from rlp_engine.stages.common import response_scorer
from rlp_engine.stages.spec import StageContext


def build_judge(judge: JudgeConfig, context: StageContext, input_name: str, device: torch.device) -> Judge:
    """
    Args:
        input_name: the stage input that holds the reward model, for kind "reward-model".

    Raises:
        ModelError: if the reward model cannot be used.
    """
    if judge.kind == "gold":
        return GoldJudge(World(context.config.sandbox).gold)
    source = context.inputs[input_name]
    scorer = response_scorer(context, source, device, microbatch=judge.microbatch, max_length=judge.max_length)
    return RewardModelJudge(scorer, f"reward model {judge.path}")


def told_costs(context: StageContext, judge: Judge) -> dict[str, Any]:
    """What judging took, as one line for people and for the stage's summary; nothing for a judge that costs nothing."""
    costs = judge.costs()
    if not costs:
        return {}
    context.reporter.line(f"{context.spec.name}: {costs_line(costs)}")
    return {"judging": costs}


def costs_line(costs: dict[str, float | int]) -> str:
    """Such as `judging: 805 comparisons, 790 calls, 15 cached, 3 unparsed`."""
    return "judging: " + ", ".join(f"{short(value)} {name.replace('_', ' ')}" for name, value in costs.items())
