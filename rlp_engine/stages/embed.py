"""Rewards and final hidden states of the samples, and how far the policy has drifted from the preference data.

Outputs: vectors/shard_NNNNN.safetensors, in the order of the samples' shards: `rewards` (N,) float32 and
`vectors` (N, D) float32, the state v that the reward head reads (METHOD 2.1); drift.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import read_pairs, read_prompts
from rlp_engine.evaluation.drift import Answers, describe
from rlp_engine.models.reward import ResponseScorer
from rlp_engine.randomness import permutation
from rlp_engine.run.atomic import write_bytes, write_json
from rlp_engine.stages.answering import iterate_folder
from rlp_engine.stages.common import prepare_device, response_scorer, shard_files
from rlp_engine.stages.spec import StageContext

PROMPTS = "prompts"  # names the draw of prompts that the SFT policy's and the policy's side share


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    device = prepare_device(config.compute)
    scorer = response_scorer(
        context,
        context.inputs["reward_model"],
        device,
        microbatch=config.embed.microbatch,
        max_length=config.train_rm.max_length,
    )
    prompts = {prompt.prompt_id: prompt for prompt in read_prompts(context.inputs["unlabeled"])}
    embed_shards(context, scorer, prompts)
    drift = measure_drift(context, scorer, prompts)
    write_json(context.out / "drift.json", drift)
    return drift


def embed_shards(context: StageContext, scorer: ResponseScorer, prompts: dict[str, Prompt]) -> None:
    """Write the vectors of every shard of samples; whole ones from before are kept."""
    target = context.out / "vectors"
    target.mkdir(exist_ok=True)
    files = shard_files(context.inputs["samples"])
    for done, (file, samples) in enumerate(zip(files, iterate_folder(context.inputs["samples"]), strict=True), 1):
        path = target / f"{file.stem}.safetensors"
        if not path.exists():
            context.stop.check(f"{context.spec.name}; whole shards are kept")
            output = scorer.embed_responses([prompts[s.prompt_id] for s in samples], [s.text for s in samples])
            write_bytes(path, save({"rewards": output.rewards_B.numpy(), "vectors": output.hidden_BD.numpy()}))
        context.reporter.progress(context.spec.name, done, len(files), "shards")


def measure_drift(context: StageContext, scorer: ResponseScorer, prompts: dict[str, Prompt]) -> dict[str, Any]:
    """drift.json: the preference data's answers as the base, and the policy's and the SFT policy's distance from it.

    At most embed.drift_samples answers a side, drawn with the run's seed. The SFT policy's distance is the zero that
    the policy's is compared with, so both sides are one answer each to the same prompts: the Frechet distance
    depends on the number of answers, and ten of one prompt are worth far fewer than ten.
    """
    config = context.config
    limit, seed = config.embed.drift_samples, config.seed
    pairs = list(read_pairs(context.inputs["pairs"]))
    compared = [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    sft = [(prompts[s.prompt_id], s.text) for shard in iterate_folder(context.inputs["sft_samples"]) for s in shard]
    base = describe_texts(scorer, pick(compared, limit, seed, "preferences"))
    sides = {
        "sft": describe_texts(scorer, pick(sft, limit, seed, PROMPTS)),
        "policy": policy_side(context, scorer, prompts, limit, seed),
    }
    drift = {name: describe(side, base, limit=limit, seed=seed) for name, side in sides.items()}
    return drift | {"preferences": describe(base, None, limit=limit, seed=seed)}


def pick(items: Sequence, limit: int, seed: int, name: str) -> list:
    """At most `limit` of the items, drawn with the seed, in their order."""
    return [items[i] for i in sorted(permutation(len(items), seed, "drift", name)[:limit])]


def describe_texts(scorer: ResponseScorer, answers: Sequence[tuple[Prompt, str]]) -> Answers:
    prompts, texts = [prompt for prompt, _ in answers], [text for _, text in answers]
    output = scorer.embed_responses(prompts, texts)
    return _side(scorer, prompts, texts, output.rewards_B.numpy(), output.hidden_BD.numpy())


def policy_side(
    context: StageContext, scorer: ResponseScorer, prompts: dict[str, Prompt], limit: int, seed: int
) -> Answers:
    """The policy's side: each prompt's first answer, from the vectors just written; one shard in memory at a time."""
    files = shard_files(context.out / "vectors")
    total = sum(sample.draw == 0 for shard in iterate_folder(context.inputs["samples"]) for sample in shard)
    chosen = set(pick(range(total), limit, seed, PROMPTS))
    start, kept_prompts, kept_texts, rewards, vectors = 0, [], [], [], []
    for samples, file in zip(iterate_folder(context.inputs["samples"]), files, strict=True):
        firsts = [i for i, sample in enumerate(samples) if sample.draw == 0]
        rows = [i for number, i in enumerate(firsts, start) if number in chosen]
        tensors = load_file(file)
        rewards.append(tensors["rewards"][rows])
        vectors.append(tensors["vectors"][rows])
        kept_prompts += [prompts[samples[i].prompt_id] for i in rows]
        kept_texts += [samples[i].text for i in rows]
        start += len(firsts)
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
