"""Rewards and final hidden states of the samples, and how far the policy has drifted from the preference data.

Outputs: vectors/shard_NNNNN.safetensors, in the order of the samples' shards: `rewards` (N,) float32 and
`vectors` (N, D) float32, the state v that the reward head reads (METHOD 2.1); drift.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.numpy import load_file, save

from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import iterate_pairs, read_samples
from rlp_engine.distributed.world import world
from rlp_engine.evaluation.drift import Answers, describe
from rlp_engine.models.reward import ResponseScorer
from rlp_engine.randomness import permutation
from rlp_engine.run.atomic import write_bytes, write_json
from rlp_engine.stages.answering import iterate_folder
from rlp_engine.stages.common import prepare_device, response_scorer, shard_files, warn_of
from rlp_engine.stages.sharding import PromptsInOrder, all_ranks, is_own
from rlp_engine.stages.spec import StageContext

T = TypeVar("T")

PROMPTS = "prompts"  # names the draw of prompts that the SFT policy's and the policy's side share


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    device = prepare_device(context)
    scorer = response_scorer(
        context,
        context.inputs["reward_model"],
        device,
        microbatch=config.embed.microbatch,
        max_length=config.train_rm.max_length,
    )
    embed_shards(context, scorer)
    warn_of(context, scorer.cuts.told("answers, with their prompts,", scorer.limit_in_words("train_rm.max_length")))
    if not world().is_leader:
        return {}
    drift = measure_drift(context, scorer)
    write_json(context.out / "drift.json", drift)
    return drift


def embed_shards(context: StageContext, scorer: ResponseScorer) -> None:
    """Write the vectors of every shard of samples; whole ones from before are kept. Every rank makes its own."""
    target = context.out / "vectors"
    target.mkdir(exist_ok=True)
    files = shard_files(context.inputs["samples"])
    prompts = PromptsInOrder(context.inputs["unlabeled"])
    with all_ranks(context, "whole shards are kept"):
        for number, file in enumerate(files):
            path = target / f"{file.stem}.safetensors"
            if is_own(number) and not path.exists():
                context.stop.check(f"{context.spec.name}; whole shards are kept")
                samples = read_samples(file)
                found = prompts.find(sample.prompt_id for sample in samples)
                output = scorer.embed_responses([found[s.prompt_id] for s in samples], [s.text for s in samples])
                write_bytes(path, save({"rewards": output.rewards_B.numpy(), "vectors": output.hidden_BD.numpy()}))
            context.reporter.progress(context.spec.name, number + 1, len(files), "shards")


def measure_drift(context: StageContext, scorer: ResponseScorer) -> dict[str, Any]:
    """drift.json: the preference data's answers as the base, and the policy's and the SFT policy's distance from it.

    At most embed.drift_samples answers a side, drawn with the run's seed. The SFT policy's distance is the zero that
    the policy's is compared with, so both sides are one answer each to the same prompts: the Frechet distance
    depends on the number of answers, and ten of one prompt are worth far fewer than ten.
    """
    limit, seed = context.config.embed.drift_samples, context.config.seed
    base = describe_texts(scorer, pick(lambda: compared(context.inputs["pairs"]), limit, seed, "preferences"))
    sides = {
        "sft": describe_texts(scorer, pick(lambda: answers_of_sft(context), limit, seed, PROMPTS)),
        "policy": policy_side(context, scorer, limit, seed),
    }
    drift = {name: describe(side, base, limit=limit, seed=seed) for name, side in sides.items()}
    return drift | {"preferences": describe(base, None, limit=limit, seed=seed)}


def compared(pairs: Path) -> Iterator[tuple[Prompt, str]]:
    """Both answers of every pair."""
    for pair in iterate_pairs(pairs):
        yield pair.prompt, pair.chosen
        yield pair.prompt, pair.rejected


def answers_of_sft(context: StageContext) -> Iterator[tuple[Prompt, str]]:
    prompts = PromptsInOrder(context.inputs["unlabeled"])
    for samples in iterate_folder(context.inputs["sft_samples"]):
        found = prompts.find(sample.prompt_id for sample in samples)
        yield from ((found[sample.prompt_id], sample.text) for sample in samples)


def pick(items: Callable[[], Iterator[T]], limit: int, seed: int, name: str) -> list[T]:
    """At most `limit` of the items, drawn with the seed, in their order. They are gone through twice: a first time to
    count them, so that no more than the drawn ones are held."""
    chosen = drawn_rows(sum(1 for _ in items()), limit, seed, name)
    return [item for row, item in enumerate(items()) if row in chosen]


def drawn_rows(count: int, limit: int, seed: int, name: str) -> set[int]:
    return set(permutation(count, seed, "drift", name)[:limit].tolist())


def describe_texts(scorer: ResponseScorer, answers: Sequence[tuple[Prompt, str]]) -> Answers:
    prompts, texts = [prompt for prompt, _ in answers], [text for _, text in answers]
    output = scorer.embed_responses(prompts, texts)
    return _side(scorer, prompts, texts, output.rewards_B.numpy(), output.hidden_BD.numpy())


def policy_side(context: StageContext, scorer: ResponseScorer, limit: int, seed: int) -> Answers:
    """The policy's side: each prompt's first answer, from the vectors just written; one shard in memory at a time."""
    files = shard_files(context.out / "vectors")
    total = sum(sample.draw == 0 for shard in iterate_folder(context.inputs["samples"]) for sample in shard)
    chosen = drawn_rows(total, limit, seed, PROMPTS)
    prompts = PromptsInOrder(context.inputs["unlabeled"])
    start, kept_prompts, kept_texts, rewards, vectors = 0, [], [], [], []
    for samples, file in zip(iterate_folder(context.inputs["samples"]), files, strict=True):
        firsts = [i for i, sample in enumerate(samples) if sample.draw == 0]
        rows = [i for number, i in enumerate(firsts, start) if number in chosen]
        start += len(firsts)
        if not rows:
            continue
        tensors = load_file(file)
        rewards.append(tensors["rewards"][rows])
        vectors.append(tensors["vectors"][rows])
        found = prompts.find(samples[i].prompt_id for i in rows)
        kept_prompts += [found[samples[i].prompt_id] for i in rows]
        kept_texts += [samples[i].text for i in rows]
    return _side(scorer, kept_prompts, kept_texts, np.concatenate(rewards), np.concatenate(vectors))


def _side(
    scorer: ResponseScorer, prompts: Sequence[Prompt], texts: Sequence[str], rewards: np.ndarray, vectors: np.ndarray
) -> Answers:
    tokenizer = scorer.reward_model.tokenizer  # the same for all sides, so that their lengths compare
    return Answers(
        rewards=rewards.tolist(),
        tokens=[len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]],
        characters=[len(text) for text in texts],
        vectors_ND=vectors,
        prompts=[prompt.prompt_id for prompt in prompts],
    )
