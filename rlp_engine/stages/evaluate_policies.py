"""What `evaluate` asks of one policy: answers, the judge's scores, samples at T = 1, and their KL."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.evaluation.ifeval.judge import ifeval_parts
from rlp_engine.evaluation.judges import Judge, ScoringJudge, best_of
from rlp_engine.generation.logprobs import sequence_logprobs
from rlp_engine.models.policy import Policy, load_policy
from rlp_engine.models.reward import ResponseScorer
from rlp_engine.sandbox.data import World
from rlp_engine.stages.answer_engines import stage_answerer
from rlp_engine.stages.answering import Answerer, answer_in_shards, iterate_folder, tell_cut_prompts
from rlp_engine.stages.common import shards
from rlp_engine.stages.evaluate_files import write_outputs
from rlp_engine.stages.sharding import is_own
from rlp_engine.stages.spec import StageContext

SHARD_PROMPTS = 128  # instructions per committed shard: few enough that eight ranks share 805 of them
SFT = "sft"


@dataclass(frozen=True)
class Judged:
    """One policy's decoded answers to the judged prompts, what the judge says of them, and its T = 1 samples.

    `parts` and `sample_parts` are what the score of each is made of: the sandbox's gold reward, or IFEval's demands;
    empty with any other judge.
    A judge that only compares gives no scores.
    """

    name: str
    answers: list[Sample]
    scores: list[float] | None
    parts: list[dict[str, float]]
    samples: list[Sample]  # samples_per_prompt a prompt, at T = 1
    sample_scores: list[float] | None
    sample_parts: list[dict[str, float]]
    kl: float | None  # nats a sequence, mean of log pi/pi_SFT over `samples`

    @property
    def has_correct(self) -> bool:
        """Do the parts tell correctness from style?"""
        return bool(self.parts) and "correct" in self.parts[0]


def named(context: StageContext, name: str) -> Path | str:
    """Where the policy of this name lies."""
    return context.inputs["sft_policy" if name == SFT else f"policy:{name}"]


def load_named(context: StageContext, name: str, device: torch.device) -> Policy:
    return load_policy(named(context, name), context.config.model, device=device)


def source_of(
    context: StageContext, policy: Policy, name: str, *, temperature: float, top_p: float, purpose: str
) -> Answerer:
    """Every policy gets the same key: two policies that agree on a token also draw the same one."""
    config = context.config
    return stage_answerer(
        context,
        policy,
        PromptTemplate(config.model.template, policy.tokenizer),
        named(context, name),
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
    decoding = source_of(context, policy, name, temperature=config.temperature, top_p=config.top_p, purpose="decode")
    if name == SFT:
        tell_cut_prompts(context, decoding, prompts)
    answers = drawn(context, decoding, prompts, 1, f"answers/{name}/decoded")
    sampling = source_of(context, policy, name, temperature=1.0, top_p=1.0, purpose="sample")
    samples = drawn(context, sampling, prompts, config.samples_per_prompt, f"answers/{name}/sampled")
    if world().is_leader:
        write_outputs(context.out / "outputs", name, prompts, answers, config.input)
    return Judged(
        name,
        answers,
        judge_samples(judge, prompts, answers),
        gold_parts(context, prompts, answers),
        samples,
        judge_samples(judge, prompts, samples),
        gold_parts(context, prompts, samples),
        None if name == SFT else sequence_kl(context, sampling, prompts, samples, device),
    )


def drawn(context: StageContext, source: Answerer, prompts: Sequence[Prompt], draws: int, folder: str) -> list[Sample]:
    answer_in_shards(context, source, prompts, draws, folder, SHARD_PROMPTS, total=len(prompts))
    return [sample for shard in iterate_folder(context.out / folder) for sample in shard]


def judge_samples(judge: Judge, prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[float] | None:
    """Scores; None of a judge that only compares; none at the other ranks, since judging is the leader's work."""
    if not isinstance(judge, ScoringJudge):
        return None
    if not world().is_leader:
        return []
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    return judge.scores(
        [by_id[s.prompt_id] for s in samples], [s.text for s in samples], [s.finish_reason for s in samples]
    )


def gold_parts(context: StageContext, prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[dict[str, float]]:
    """What the sandbox's gold reward, or IFEval's score, of each sample is made of; empty with any other judge, and at
    the other ranks."""
    kind = context.config.evaluate.judge.kind
    if kind not in ("gold", "ifeval") or not world().is_leader:
        return []
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    if kind == "ifeval":
        return [ifeval_parts(by_id[s.prompt_id], s.text) for s in samples]
    sandbox = World(context.config.sandbox)
    return [sandbox.gold_parts(by_id[s.prompt_id], s.text, s.finish_reason) for s in samples]


def sequence_kl(
    context: StageContext,
    sampling: Answerer,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    device: torch.device,
) -> float:
    """Mean over the samples of log pi(y|x) - log pi_SFT(y|x), nats: an unbiased estimate of the sequence KL.

    Both log-probabilities come from the same kind of forward pass, so that the estimate is 0 for equal models. Every
    rank takes its shards of the samples, which alone go through a model together.
    """
    encoded = {prompt.prompt_id: sampling.encode(prompt) for prompt in prompts}
    policies = (sampling.policy, load_named(context, SFT, device))
    own: list[tuple[int, list[float]]] = []  # number of a shard, log-ratios of its samples
    size = SHARD_PROMPTS * context.config.evaluate.samples_per_prompt
    for number, (_, members) in enumerate(shards(samples, size)):
        if is_own(number):
            prompt_ids = [encoded[sample.prompt_id] for sample in members]
            response_ids = [sample.token_ids for sample in members]
            logprobs = (
                sequence_logprobs(
                    p.model, prompt_ids, response_ids, pad_id=sampling.sampling.pad_id, rows=sampling.rows
                )
                for p in policies
            )
            own.append((number, [a - b for a, b in zip(*logprobs, strict=True)]))
    in_order = sorted(itertools.chain.from_iterable(world().gather(own)))
    return statistics.fmean(ratio for _, ratios in in_order for ratio in ratios)


def best_of_n(
    context: StageContext, prompts: Sequence[Prompt], judge: Judge, scorer: ResponseScorer, device: torch.device
) -> Judged:
    """n SFT answers at T = 1, the one with the highest stage-2 reward (METHOD 7.46)."""
    count = context.config.evaluate.best_of_n
    name = f"best-of-{count}"
    context.reporter.line(f"{context.spec.name}: {name}")
    policy = load_named(context, SFT, device)
    source = source_of(context, policy, SFT, temperature=1.0, top_p=1.0, purpose="best-of-n")
    samples = drawn(context, source, prompts, count, f"answers/{name}/sampled")
    if not world().is_leader:
        return Judged(name, [], [], [], [], [], [], None)
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    rewards = scorer.score_responses([by_id[s.prompt_id] for s in samples], [s.text for s in samples])
    rows = [rewards[start : start + count] for start in range(0, len(rewards), count)]
    answers = [samples[row * count + best] for row, best in enumerate(best_of(rows))]
    write_outputs(context.out / "outputs", name, prompts, answers, context.config.evaluate.input)
    # No KL: log n - (n - 1)/n bounds that of an exact best-of-n, but it is not one measured here.
    scores, parts = judge_samples(judge, prompts, answers), gold_parts(context, prompts, answers)
    return Judged(name, answers, scores, parts, [], None, [], None)
