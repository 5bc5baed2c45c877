"""What `evaluate` says of the reward models and of the synthetic pairs, the judge's word being the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import read_pairs
from rlp_engine.evaluation.judges import Judge, ScoringJudge
from rlp_engine.evaluation.reward_accuracy import RewardAccuracy, compared_accuracy, confirmed_share, reward_accuracy
from rlp_engine.models.reward import ResponseScorer
from rlp_engine.stages.branches import is_curve_point
from rlp_engine.stages.common import response_scorer
from rlp_engine.stages.evaluate_policies import Judged
from rlp_engine.stages.spec import StageContext

PAIRS = "pairs:"  # inputs that hold synthetic pairs

Compared = list[tuple[int, int, float | None]]  # of one prompt: (i, j, preference) of samples i and j


def load_scorer(context: StageContext, name: str, device: torch.device) -> ResponseScorer:
    settings = context.config.train_rm
    return response_scorer(
        context,
        context.inputs[f"reward:{name}"],
        device,
        microbatch=settings.score_microbatch,
        max_length=settings.max_length,
    )


def reward_model_results(
    context: StageContext,
    prompts: Sequence[Prompt],
    policies: Sequence[Judged],
    judge: Judge,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Pairwise accuracy of each reward model on the T = 1 samples of each policy but those of a curve."""
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    sampled = [policy for policy in policies if policy.samples and not is_curve_point(policy.name)]
    per_prompt = context.config.evaluate.samples_per_prompt
    compared: dict[str, list[Compared]] = {}
    if not isinstance(judge, ScoringJudge):
        compared = {policy.name: compare_samples(judge, prompts, policy.samples, per_prompt) for policy in sampled}
    rows = []
    for name in (key.removeprefix("reward:") for key in context.inputs if key.startswith("reward:")):
        context.reporter.line(f"{context.spec.name}: reward model {name}")
        scorer = load_scorer(context, name, device)
        accuracy = {}
        for policy in sampled:
            rewards = scorer.score_responses(
                [by_id[s.prompt_id] for s in policy.samples], [s.text for s in policy.samples]
            )
            accuracy[policy.name] = accuracy_on(rewards, policy, per_prompt, compared.get(policy.name))
        rows.append({"name": name, "accuracy": accuracy})
    return rows


def compare_samples(
    judge: Judge, prompts: Sequence[Prompt], samples: Sequence[Sample], per_prompt: int
) -> list[Compared]:
    """(i, j, preference) of the samples 0 and 1, 2 and 3, ... of each prompt.

    Disjoint pairs: all pairs of 4 samples would be three times as many paid judgements, and not independent ones.
    """
    pairs = [(i, i + 1) for i in range(0, per_prompt - 1, 2)]
    rows = [(prompt, p * per_prompt + i, p * per_prompt + j) for p, prompt in enumerate(prompts) for i, j in pairs]
    preferences = judge.compare(
        [prompt for prompt, _, _ in rows],
        [samples[i].text for _, i, _ in rows],
        [samples[j].text for _, _, j in rows],
        finish_reasons_1=[samples[i].finish_reason for _, i, _ in rows],
        finish_reasons_2=[samples[j].finish_reason for _, _, j in rows],
    )
    judged = iter(preferences)
    return [[(i, j, next(judged)) for i, j in pairs] for _ in prompts]


def accuracy_on(
    rewards: Sequence[float], policy: Judged, per_prompt: int, compared: Sequence[Compared] | None = None
) -> dict[str, Any]:
    """Accuracy on all pairs of a prompt's samples, and ("differing") on those of which one is correct and one not.

    Args:
        rewards: of the policy's samples, in their order, `per_prompt` to each prompt.
        compared: `compare_samples` of a judge that gives no scores.
    """
    groups = grouped(rewards, per_prompt)
    if compared is not None:
        return numbers(compared_accuracy(groups, compared))
    truth = grouped(policy.sample_scores, per_prompt)
    entry = numbers(reward_accuracy(groups, truth))
    if policy.sample_parts and "correct" in policy.sample_parts[0]:
        correct = grouped([part["correct"] for part in policy.sample_parts], per_prompt)
        entry["differing"] = numbers(reward_accuracy(groups, truth, must_differ=correct))
    return entry


def synthetic_pair_results(context: StageContext, judge: Judge) -> list[dict[str, Any]]:
    """Share of each method's synthetic pairs whose order the judge confirms (the accuracy column of Table 5)."""
    rows, known = [], {}  # methods that synthesize alike share their pairs
    for key, source in context.inputs.items():
        if key.startswith(PAIRS):
            name = key.removeprefix(PAIRS)
            if source not in known:
                context.reporter.line(f"{context.spec.name}: synthetic pairs of {name}")
                preferences = judged_pairs(Path(source), judge)
                known[source] = numbers(confirmed_share(preferences)) | {"dropped": preferences.count(None)}
            rows.append({"name": name, "method": name.rpartition("/")[2], **known[source]})
    return rows


def judged_pairs(path: Path, judge: Judge) -> list[float | None]:
    """The judge's preference between chosen (1) and rejected (2) of each row in pairs.jsonl of a synthesize stage, less
    those that it cannot judge."""
    pairs = [pair for pair in read_pairs(path) if judge.can_judge(pair.prompt)]
    return judge.compare(
        [pair.prompt for pair in pairs],
        [pair.chosen for pair in pairs],
        [pair.rejected for pair in pairs],
        finish_reasons_1=[pair.meta["finish_chosen"] for pair in pairs],
        finish_reasons_2=[pair.meta["finish_rejected"] for pair in pairs],
    )


def numbers(result: RewardAccuracy) -> dict[str, float | int | None]:
    """As JSON has them: NaN is null."""
    return {
        "accuracy": None if math.isnan(result.accuracy) else result.accuracy,
        "standard_error": None if math.isnan(result.standard_error) else result.standard_error,
        "n": result.n,
    }


def grouped(values: Sequence, size: int) -> list[Sequence]:
    return [values[start : start + size] for start in range(0, len(values), size)]
