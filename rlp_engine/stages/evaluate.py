"""Every policy, every reward model and all synthetic pairs of the run, on the judged instructions (METHOD 6).

Policies: win-rate against the reference answers with its standard error, mean judge score, KL to the SFT policy,
length, and how far the score is above the SFT policy's. Reward models: pairwise accuracy on the samples of the SFT
policy and of each trained policy. Synthetic pairs: how many of them the judge confirms.

Outputs: results.json; outputs/NAME.json (AlpacaEval's model_outputs); answers/NAME/shard_NNNNN.jsonl (samples
at T = 1, for the KL and the reward models' pairs); annotations.jsonl (every judgement); annotations/NAME.json (those
of one policy, as AlpacaEval's annotations.json); test-sets/SET/ with the same for each of data.test_sets.

results.json:
    judge, reference, instructions    who judged against whom, on how many
    policies[]                        name, win_rate and standard_error (per cent), wins, losses, draws, n, dropped,
                                      mean_score, kl (nats a sequence; null: SFT, best-of-n), mean_tokens,
                                      mean_characters, eos_share, parts (means of what gold is made of), gain
    policies[].gain                   over the SFT policy (null for itself): score and its paired standard_error over
                                      instructions; with gold also correct and style, whose sum is score
    paired[]                          a, b, difference of win-rates with standard_error, low, high, n
    reward_models[]                   name, accuracy: {policy: {accuracy, standard_error, n (pairs)}}; with gold also
                                      differing: the same of pairs that differ in correctness. Not on the samples of
                                      a curve's policies
    synthetic_pairs[]                 name ("round-1/spg"), method, accuracy (draw = 1/2), standard_error, n, dropped
                                      (judgements that cannot be read): one for each method that synthesizes
    subsets[]                         subset, policies[]: name, win_rate to dropped as above, mean_characters,
                                      mean_reference_characters. Empty when the rows name fewer than two subsets
    test_sets[]                       test_set, and reference, instructions, policies, paired, subsets as above
A judge that only compares (annotators by server) gives no scores: mean_score and gain are null, and reward models are
tested on samples 0 and 1, 2 and 3, ... of each prompt, as the judge prefers them.
Accuracies are shares, 0 to 1; null where there is no pair. A standard_error over one instruction is null.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.evaluation.gain import gain
from rlp_engine.evaluation.judges import Judge, ScoringJudge, preferences
from rlp_engine.evaluation.winrate import paired_bootstrap, win_rate
from rlp_engine.models.loading import load_tokenizer
from rlp_engine.run.atomic import write_json, write_text
from rlp_engine.stages.answering import short_enough
from rlp_engine.stages.branches import is_curve_point
from rlp_engine.stages.common import prepare_device
from rlp_engine.stages.evaluate_files import subset_results, write_annotations
from rlp_engine.stages.evaluate_policies import SFT, Judged, best_of_n, judge_policy
from rlp_engine.stages.evaluate_rewards import load_scorer, reward_model_results, synthetic_pair_results
from rlp_engine.stages.judging import build_judge, told_costs
from rlp_engine.stages.spec import StageContext


def run(context: StageContext) -> dict[str, Any]:
    device = prepare_device(context)
    prompts = answerable(context, "instructions")
    judge = build_judge(context.config.evaluate.judge, context, "judge", device)
    policies, judged = judge_set(context, prompts, judge, device)
    test_sets = [judge_test_set(context, name, judge, device) for name in test_set_names(context)]
    if not world().is_leader:  # it alone judges and writes results
        return {}
    results = {
        "judge": judge.name,
        **judged,
        "reward_models": reward_model_results(context, prompts, policies, judge, device),
        "synthetic_pairs": synthetic_pair_results(context, judge),
        "test_sets": test_sets,
    }
    write_json(context.out / "results.json", results)
    return {"policies": {row["name"]: row["win_rate"] for row in results["policies"]}, **told_costs(context, judge)}


def judge_set(
    context: StageContext, prompts: Sequence[Prompt], judge: Judge, device: torch.device
) -> tuple[list[Judged], dict[str, Any]]:
    """Every policy on one list of instructions, its files below `context.out`; (the policies, their results).

    Every rank draws its share of the answers; the results are the leader's.
    """
    policies = [judge_policy(context, name, prompts, judge, device) for name in policy_names(context)]
    if context.config.evaluate.best_of_n:
        policies.insert(1, best_of_n(context, prompts, judge, load_scorer(context, "train-rm", device), device))
    if not world().is_leader:
        return policies, {}
    references, reference_name = reference_answers(context, prompts, policies[0])
    results = policy_results(context, prompts, policies, references, judge)
    subsets = subset_results(context.out / "annotations.jsonl")
    return policies, {"reference": reference_name, "instructions": len(prompts), **results, "subsets": subsets}


def judge_test_set(context: StageContext, name: str, judge: Judge, device: torch.device) -> dict[str, Any]:
    """Results of one of data.test_sets, made as those of data.test are, below test-sets/NAME."""
    context.reporter.line(f"{context.spec.name}: test set {name}")
    own = replace(context, out=context.out / "test-sets" / name)
    own.out.mkdir(parents=True, exist_ok=True)
    _, results = judge_set(own, answerable(context, f"test-set:{name}"), judge, device)
    return {"test_set": name, **results}


def answerable(context: StageContext, name: str) -> list[Prompt]:
    """The instructions that a policy can go on from; every policy has the SFT policy's tokenizer.

    Raises:
        DataError: the tokenizer makes a token of none.
    """
    model = context.config.model
    template = PromptTemplate(model.template, load_tokenizer(context.inputs["sft_policy"], model))
    return short_enough(context, list(read_prompts(context.inputs[name])), template, None)


def test_set_names(context: StageContext) -> list[str]:
    return [name.removeprefix("test-set:") for name in context.inputs if name.startswith("test-set:")]


def policy_names(context: StageContext) -> list[str]:
    """The SFT policy first, then the trained ones in the order of the pipeline."""
    return [SFT, *(name.removeprefix("policy:") for name in context.inputs if name.startswith("policy:"))]


def reference_answers(context: StageContext, prompts: Sequence[Prompt], sft: Judged) -> tuple[list[str | None], str]:
    """Reference text of each prompt; the SFT policy's own answers when the test data has none."""
    references = [prompt.reference for prompt in prompts]
    if all(reference is None for reference in references):
        context.reporter.warn("the test data has no reference answers: win-rates are against the SFT policy's answers")
        return [answer.text for answer in sft.answers], "the SFT policy"
    missing = sum(reference is None for reference in references)
    if missing:
        context.reporter.warn(f"{missing} of {len(prompts)} test instructions have no reference and are not judged")
    empty = sum(reference is not None and not reference.strip() for reference in references)
    if empty:
        context.reporter.warn(
            f"the reference of {empty} of {len(prompts)} test instructions is an empty text, and is judged as one"
        )
    return references, "data.test"


def policy_results(
    context: StageContext,
    prompts: Sequence[Prompt],
    policies: Sequence[Judged],
    references: Sequence[str | None],
    judge: Judge,
) -> dict[str, Any]:
    """The rows of every policy, and differences of the trained policies' win-rates, paired by instruction."""
    judged = [i for i, reference in enumerate(references) if reference is not None]
    reference_texts = [references[i] for i in judged]
    judged_prompts = [prompts[i] for i in judged]
    is_scoring = isinstance(judge, ScoringJudge)
    reference_scores = judge.scores(judged_prompts, reference_texts) if is_scoring else None
    rows, judgements, lines = [], {}, []
    for policy in policies:
        texts = [policy.answers[i].text for i in judged]
        if is_scoring:
            scores = [policy.scores[i] for i in judged]
            preference = preferences(reference_scores, scores, reference_texts, texts)
        else:
            context.reporter.line(f"{context.spec.name}: judging {policy.name}")
            preference = judge.compare(judged_prompts, reference_texts, texts)
        judgements[policy.name] = preference
        rows.append(policy_row(policy, policies[0], preference))
        for i, value, text, reference in zip(judged, preference, texts, reference_texts, strict=True):
            line = annotation(prompts[i], policy.name, reference, text, value, judge.name)
            lines.append(line | judge.details(prompts[i]))
    write_text(
        context.out / "annotations.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    )
    write_annotations(context.out / "annotations", lines, context.config.evaluate.input)
    names = [policy.name for policy in policies]
    return {
        "policies": rows,
        "paired": paired_differences(names, judgements, context.config.seed, context.config.refine_rm.reseed.match),
    }


def policy_row(policy: Judged, sft: Judged, preference: Sequence[float | None]) -> dict[str, Any]:
    answers = policy.answers
    gained = None
    if policy.name != SFT and policy.scores is not None:
        known = policy.parts if policy.has_correct else [], sft.parts if sft.has_correct else []
        gained = asdict(gain(policy.scores, sft.scores, *known))
    return {
        "name": policy.name,
        **asdict(win_rate(preference)),
        "mean_score": None if policy.scores is None else statistics.fmean(policy.scores),
        "kl": policy.kl,
        "mean_tokens": statistics.fmean(len(answer.token_ids) for answer in answers),
        "mean_characters": statistics.fmean(len(answer.text) for answer in answers),
        "eos_share": statistics.fmean(answer.finish_reason == "stop" for answer in answers),
        "parts": {name: statistics.fmean(part[name] for part in policy.parts) for name in (policy.parts or [{}])[0]},
        "gain": gained,
    }


def annotation(
    prompt: Prompt, generator: str, reference: str, output: str, preference: float | None, judge: str
) -> dict[str, Any]:
    """One row of AlpacaEval's annotation files: output_1 is the reference, preference 2 = our output is better."""
    return {
        "instruction": prompt.instruction,
        "input": prompt.input,
        "dataset": prompt.meta.get("subset", ""),
        "output_1": reference,
        "generator_1": "reference",
        "output_2": output,
        "generator_2": generator,
        "annotator": judge,
        "preference": preference,
    }


def paired_differences(
    names: Sequence[str], judgements: dict[str, list[float | None]], seed: int, matched: str
) -> list[dict[str, Any]]:
    """PPO against SFT, every method against PPO, and against the reseed control the method whose steps it matches."""
    pairs = [("ppo", SFT)]
    methods = [
        name for name in names if name.startswith("round-") and not is_curve_point(name)
    ]  # a curve is read as one
    pairs += [(method, "ppo") for method in methods]
    controls = [name for name in methods if name.endswith("/reseed")]
    pairs += [(f"{control.removesuffix('reseed')}{matched}", control) for control in controls]
    return [
        {"a": a, "b": b, **asdict(paired_bootstrap(judgements[a], judgements[b], key=(seed, a, b)))} for a, b in pairs
    ]
