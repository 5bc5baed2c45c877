"""The judge that a config names, for labels (`collect`), for choosing a checkpoint (`ppo`) and for `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlp_engine.annotation.cache import AnswerCache
from rlp_engine.annotation.server_judge import ServerJudge
from rlp_engine.config.annotators import load_annotator
from rlp_engine.config.sections.judging import JudgeConfig
from rlp_engine.evaluation.ifeval.judge import IfevalJudge
from rlp_engine.evaluation.judges import GoldJudge, Judge, RewardModelJudge
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.reporting import short
from rlp_engine.sandbox.data import World
from rlp_engine.serving.client import ServerClient
from rlp_engine.stages.common import response_scorer, warn_of
from rlp_engine.stages.spec import StageContext


def build_judge(judge: JudgeConfig, context: StageContext, input_name: str, device: torch.device) -> Judge:
    """
    Args:
        input_name: the stage input that holds the reward model, for kind "reward-model".

    Raises:
        ModelError: if the reward model cannot be used.
        ConfigError: if an annotator, an address or the server's key is missing.
    """
    if judge.kind == "gold":
        return GoldJudge(World(context.config.sandbox).gold)
    if judge.kind == "server":
        return server_judge(context, context.config.judge.annotators)
    if judge.kind == "ifeval":
        return IfevalJudge()
    source = context.inputs[input_name]
    scorer = response_scorer(context, source, device, microbatch=judge.microbatch, max_length=judge.max_length)
    key = "collect.annotator" if input_name == "annotator" else "evaluate.judge"
    limit = scorer.limit_in_words(f"{key}.max_length")
    return RewardModelJudge(scorer, f"reward model {judge.path}", cuts=scorer.cuts, limit=limit)


def server_judge(context: StageContext, names: Sequence[str]) -> ServerJudge:
    """Annotators of these names or paths, behind the servers of [judge]; their answers are kept in the run's .cache."""
    settings = context.config.judge
    cache = AnswerCache(RunLayout(context.run_dir).judge_answers)
    if cache.unreadable_lines:
        context.reporter.warn(f"{cache.unreadable_lines} answers of annotators cannot be read, and are asked again")
    return ServerJudge(
        [load_annotator(Path(context.inputs[f"annotator:{name}"])) for name in names],
        settings,
        seed=context.config.seed,
        client=ServerClient(settings.server, stop=context.stop, reporter=context.reporter),
        cache=cache,
        reporter=context.reporter,
        stage=context.spec.name,
    )


def told_costs(context: StageContext, judge: Judge) -> dict[str, Any]:
    """What judging took, as one line for people and for the stage's summary; nothing for a judge that costs nothing.

    What else is to be told of how it judged is a warning.
    """
    warn_of(context, judge.remarks())
    return tell_costs(context, judge.costs())


def added_costs(parts: Sequence[dict[str, float | int]]) -> dict[str, float | int]:
    """What several ranks' judges took together."""
    total: dict[str, float | int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


def tell_costs(context: StageContext, costs: dict[str, float | int]) -> dict[str, Any]:
    """`told_costs` of what has been counted."""
    if not costs:
        return {}
    context.reporter.line(f"{context.spec.name}: {costs_line(costs)}")
    return {"judging": costs}


def costs_line(costs: dict[str, float | int]) -> str:
    """Such as `judging: 805 comparisons, 790 calls, 15 cached, 3 unparsed`."""
    return "judging: " + ", ".join(f"{short(value)} {name.replace('_', ' ')}" for name, value in costs.items())
