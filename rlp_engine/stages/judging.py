"""The judge that a config names, for labels (`collect`), for choosing a checkpoint (`ppo`) and for `evaluate`."""

from __future__ import annotations

import torch

from rlp_engine.config.schema import JudgeConfig
from rlp_engine.evaluation.ifeval.judge import IfevalJudge
from rlp_engine.evaluation.judges import GoldJudge, Judge, RewardModelJudge
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
    if judge.kind == "ifeval":
        return IfevalJudge()
    source = context.inputs[input_name]
    scorer = response_scorer(context, source, device, microbatch=judge.microbatch, max_length=judge.max_length)
    return RewardModelJudge(scorer, f"reward model {judge.path}")
