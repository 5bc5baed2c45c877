"""Every policy and every reward model of the run, on the test instructions (METHOD 6).

Policies: win-rate against the reference answers with its standard error, mean judge score, KL to the SFT
policy, length. Reward models: pairwise accuracy on the SFT policy's samples and on each trained policy's.

Outputs: results.json; outputs/NAME.json (AlpacaEval's model_outputs); answers/NAME/shard_NNNNN.jsonl (samples
at T = 1, for the KL and the reward models' pairs); annotations.jsonl (every judgement).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.evaluation.judges import Judge, best_of, preferences
from rlp_engine.evaluation.reward_accuracy import reward_accuracy
from rlp_engine.evaluation.winrate import paired_bootstrap, win_rate
from rlp_engine.generation.logprobs import response_logprobs
from rlp_engine.models.policy import Policy, load_policy
from rlp_engine.models.reward import ResponseScorer
from rlp_engine.run.atomic import write_json, write_text
from rlp_engine.sandbox.data import World
from rlp_engine.stages.answering import Answerer, answer_in_shards, answerer, iterate_folder
from rlp_engine.stages.common import prepare_device, response_scorer
from rlp_engine.stages.judging import build_judge
from rlp_engine.stages.spec import StageContext
from rlp_engine.training.rows import microbatches, pack

SHARD_PROMPTS = 512  # instructions per committed shard
SFT = "sft"


@dataclass(frozen=True)
class Judged:
    """One policy's decoded answers to the test prompts, what the judge says of them, and its T = 1 samples."""

    name: str
    answers: list[Sample]
    scores: list[float]
    samples: list[Sample]  # samples_per_prompt a prompt, at T = 1
    sample_scores: list[float]
    kl: float | None  # nats a sequence, mean of log pi/pi_SFT over `samples`


def run(context: StageContext) -> dict[str, Any]:
    device = prepare_device(context.config.compute)
    prompts = list(read_prompts(context.inputs["instructions"]))
    judge = build_judge(context.config.evaluate.judge, context, "judge", device)
    policies = [judge_policy(context, name, prompts, judge, device) for name in policy_names(context)]
    if context.config.evaluate.best_of_n:
        policies.insert(1, best_of_n(context, prompts, judge, load_scorer(context, "train-rm", device), device))
    references, reference_name = reference_answers(context, prompts, policies[0])
    results = {
        "judge": judge.name,
        "reference": reference_name,
        "instructions": len(prompts),
        **policy_results(context, prompts, policies, references, judge),
        "reward_models": reward_model_results(context, prompts, policies, device),
    }
    write_json(context.out / "results.json", results)
    return {"policies": {row["name"]: row["win_rate"] for row in results["policies"]}}


def policy_names(context: StageContext) -> list[str]:
    """The SFT policy first, then the trained ones in the order of the pipeline."""
    return [SFT, *(name.removeprefix("policy:") for name in context.inputs if name.startswith("policy:"))]


def load_named(context: StageContext, name: str, device: torch.device) -> Policy:
    source = context.inputs["sft_policy" if name == SFT else f"policy:{name}"]
    return load_policy(source, context.config.model, device=device)


def load_scorer(context: StageContext, name: str, device: torch.device) -> ResponseScorer:
    settings = context.config.train_rm
    return response_scorer(
        context,
        context.inputs[f"reward:{name}"],
        device,
        microbatch=settings.score_microbatch,
        max_length=settings.max_length,
    )


def source_of(context: StageContext, policy: Policy, *, temperature: float, top_p: float, purpose: str) -> Answerer:
    """Every policy gets the same key: two policies that agree on a token also draw the same one."""
    config = context.config
    return answerer(
        policy,
        PromptTemplate(config.model.template, policy.tokenizer),
        config.generation,
        temperature=temperature,
        top_p=top_p,
        key=(config.seed, 0, f"evaluate-{purpose}", 0),
    )


def judge_policy(
    context: StageContext, name: str, prompts: Sequence[Prompt], judge: Judge, device: torch.device
) -> Judged:
    config = context.config.evaluate
    context.reporter.line(f"{context.spec.name}: {name}")
    policy = load_named(context, name, device)
    decoding = source_of(context, policy, temperature=config.temperature, top_p=config.top_p, purpose="decode")
    answers = drawn(context, decoding, prompts, 1, f"answers/{name}/decoded")
    sampling = source_of(context, policy, temperature=1.0, top_p=1.0, purpose="sample")
    samples = drawn(context, sampling, prompts, config.samples_per_prompt, f"answers/{name}/sampled")
    write_outputs(context, name, prompts, answers)
    return Judged(
        name,
        answers,
        judge_samples(judge, prompts, answers),
        samples,
        judge_samples(judge, prompts, samples),
        None if name == SFT else sequence_kl(context, sampling, prompts, samples, device),
    )


def drawn(context: StageContext, source: Answerer, prompts: Sequence[Prompt], draws: int, folder: str) -> list[Sample]:
    answer_in_shards(context, source, prompts, draws, folder, SHARD_PROMPTS)
    return [sample for shard in iterate_folder(context.out / folder) for sample in shard]


def judge_samples(judge: Judge, prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[float]:
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    return judge.scores(
        [by_id[s.prompt_id] for s in samples], [s.text for s in samples], [s.finish_reason for s in samples]
    )


def sequence_kl(
    context: StageContext,
    sampling: Answerer,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    device: torch.device,
) -> float:
    """Mean over the samples of log pi(y|x) - log pi_SFT(y|x), nats: an unbiased estimate of the sequence KL.

    Both log-probabilities come from the same kind of forward pass, so that the estimate is 0 for equal models.
    """
    encoded = {prompt.prompt_id: sampling.encode(prompt) for prompt in prompts}
    prompt_ids = [encoded[sample.prompt_id] for sample in samples]
    own = sequence_logprobs(sampling, sampling.policy, prompt_ids, samples)
    reference = sequence_logprobs(sampling, load_named(context, SFT, device), prompt_ids, samples)
    return statistics.fmean(a - b for a, b in zip(own, reference, strict=True))


def sequence_logprobs(
    sampling: Answerer, policy: Policy, prompt_ids: Sequence[list[int]], samples: Sequence[Sample]
) -> list[float]:
    """log pi(y|x) of each sample under `policy` at T = 1, nats."""
    response_ids = [sample.token_ids for sample in samples]
    sums = [0.0] * len(samples)
    for rows in microbatches(range(len(samples)), prompt_ids, response_ids, sampling.rows):
        packed = pack(
            [prompt_ids[row] for row in rows],
            [response_ids[row] for row in rows],
            pad_id=sampling.sampling.pad_id,
            device=policy.model.device,
        )
        with torch.no_grad():
            logprobs_RT = response_logprobs(policy.model, packed.ids_RL, packed.attention_RL, packed.start)
        for row, total in zip(rows, logprobs_RT.double().sum(-1).tolist(), strict=True):
            sums[row] = total
    return sums


def best_of_n(
    context: StageContext, prompts: Sequence[Prompt], judge: Judge, scorer: ResponseScorer, device: torch.device
) -> Judged:
    """n SFT answers at T = 1, the one with the highest stage-2 reward (METHOD 7.46)."""
    count = context.config.evaluate.best_of_n
    name = f"best-of-{count}"
    context.reporter.line(f"{context.spec.name}: {name}")
    policy = load_named(context, SFT, device)
    source = source_of(context, policy, temperature=1.0, top_p=1.0, purpose="best-of-n")
    samples = drawn(context, source, prompts, count, f"answers/{name}/sampled")
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    rewards = scorer.score_responses([by_id[s.prompt_id] for s in samples], [s.text for s in samples])
    rows = [rewards[start : start + count] for start in range(0, len(rewards), count)]
    answers = [samples[row * count + best] for row, best in enumerate(best_of(rows))]
    write_outputs(context, name, prompts, answers)
    # No KL: log n - (n - 1)/n bounds that of an exact best-of-n, but it is not one measured here.
    return Judged(name, answers, judge_samples(judge, prompts, answers), [], [], None)


def write_outputs(context: StageContext, name: str, prompts: Sequence[Prompt], answers: Sequence[Sample]) -> None:
    """outputs/NAME.json, as AlpacaEval and AlpacaFarm read it (METHOD 6.3)."""
    path = context.out / "outputs" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"instruction": prompt.instruction, "input": prompt.input, "output": answer.text, "generator": name}
        | {"dataset": prompt.meta.get("subset", ""), "datasplit": "eval"}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    write_json(path, rows)


def reference_answers(context: StageContext, prompts: Sequence[Prompt], sft: Judged) -> tuple[list[str | None], str]:
    """Reference text of each prompt; the SFT policy's own answers when the test data has none."""
    references = [prompt.reference for prompt in prompts]
    if all(reference is None for reference in references):
        context.reporter.warn("data.test has no reference answers: win-rates are against the SFT policy's answers")
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
    reference_scores = judge.scores([prompts[i] for i in judged], reference_texts)
    rows, judgements, lines = [], {}, []
    for policy in policies:
        texts, scores = [policy.answers[i].text for i in judged], [policy.scores[i] for i in judged]
        preference = preferences(reference_scores, scores, reference_texts, texts)
        judgements[policy.name] = preference
        rows.append(policy_row(context, prompts, policy, preference))
        for i, value, text, reference in zip(judged, preference, texts, reference_texts, strict=True):
            lines.append(annotation(prompts[i], policy.name, reference, text, value, judge.name))
    write_text(
        context.out / "annotations.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    )
    names = [policy.name for policy in policies]
    return {
        "policies": rows,
        "paired": paired_differences(names, judgements, context.config.seed, context.config.refine_rm.reseed.match),
    }


def policy_row(
    context: StageContext, prompts: Sequence[Prompt], policy: Judged, preference: Sequence[float]
) -> dict[str, Any]:
    answers = policy.answers
    return {
        "name": policy.name,
        **asdict(win_rate(preference)),
        "mean_score": statistics.fmean(policy.scores),
        "kl": policy.kl,
        "mean_tokens": statistics.fmean(len(answer.token_ids) for answer in answers),
        "mean_characters": statistics.fmean(len(answer.text) for answer in answers),
        "eos_share": statistics.fmean(answer.finish_reason == "stop" for answer in answers),
        "parts": gold_parts(context, prompts, answers),
    }


def gold_parts(context: StageContext, prompts: Sequence[Prompt], answers: Sequence[Sample]) -> dict[str, float]:
    """Means of what the sandbox's gold reward is made of; empty with any other judge."""
    if context.config.evaluate.judge.kind != "gold":
        return {}
    world = World(context.config.sandbox)
    parts = [world.gold_parts(p, a.text, a.finish_reason) for p, a in zip(prompts, answers, strict=True)]
    return {name: statistics.fmean(float(part[name]) for part in parts) for name in parts[0]}


def annotation(
    prompt: Prompt, generator: str, reference: str, output: str, preference: float, judge: str
) -> dict[str, Any]:
    """One row of AlpacaEval's annotation files: output_1 is the reference, preference 2 = our output is better."""
    return {
        "instruction": prompt.instruction,
        "input": prompt.input,
        "output_1": reference,
        "generator_1": "reference",
        "output_2": output,
        "generator_2": generator,
        "annotator": judge,
        "preference": preference,
    }


def paired_differences(
    names: Sequence[str], judgements: dict[str, list[float]], seed: int, matched: str
) -> list[dict[str, Any]]:
    """PPO against SFT, every method against PPO, and against the reseed control the method whose steps it matches."""
    pairs = [("ppo", SFT)]
    methods = [name for name in names if name.startswith("round-") and "-kl" not in name]  # a curve is read as one
    pairs += [(method, "ppo") for method in methods]
    controls = [name for name in methods if name.endswith("/reseed")]
    pairs += [(f"{control.removesuffix('reseed')}{matched}", control) for control in controls]
    return [
        {"a": a, "b": b, **asdict(paired_bootstrap(judgements[a], judgements[b], key=(seed, a, b)))} for a, b in pairs
    ]


def reward_model_results(
    context: StageContext, prompts: Sequence[Prompt], policies: Sequence[Judged], device: torch.device
) -> list[dict[str, Any]]:
    """Pairwise accuracy of each reward model on each policy's T = 1 samples, the judge's scores being the truth."""
    per_prompt = context.config.evaluate.samples_per_prompt
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    rows = []
    for name in (key.removeprefix("reward:") for key in context.inputs if key.startswith("reward:")):
        context.reporter.line(f"{context.spec.name}: reward model {name}")
        scorer = load_scorer(context, name, device)
        accuracy = {}
        for policy in policies:
            if not policy.samples:
                continue
            rewards = scorer.score_responses(
                [by_id[s.prompt_id] for s in policy.samples], [s.text for s in policy.samples]
            )
            result = reward_accuracy(grouped(rewards, per_prompt), grouped(policy.sample_scores, per_prompt))
            accuracy[policy.name] = {
                "accuracy": None if math.isnan(result.accuracy) else result.accuracy,
                "standard_error": None if math.isnan(result.standard_error) else result.standard_error,
                "n": result.n,
            }
        rows.append({"name": name, "accuracy": accuracy})
    return rows


def grouped(values: Sequence[float], size: int) -> list[Sequence[float]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
