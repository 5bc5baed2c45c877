"""What train-rm and refine-rm share: a new reward model, the held-out pairs, and the check of what was saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from rlp_engine.data.records import PreferencePair
from rlp_engine.errors import DataError
from rlp_engine.methods.bradley_terry import pair_accuracy
from rlp_engine.models.lora import add_lora
from rlp_engine.models.reward import RewardModel, load_reward, save_reward
from rlp_engine.models.shared_base import save_reward_adapter
from rlp_engine.randomness import KeyPart, permutation, torch_seed
from rlp_engine.stages.common import scorer_of
from rlp_engine.stages.spec import StageContext
from rlp_engine.training.views import normalised


def split_held_out(
    pairs: Sequence[PreferencePair], held_out: int, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(training, held out) in file order, the same split for every reward model of a run (METHOD 4.4).

    Whole instructions are held out, at least `held_out` pairs: another pair of the same instruction in
    training would make the accuracy look better than it is. An instruction is known by its normalised text:
    in a file without ids every row has an id of its own.
    """
    pairs = [pair for pair in pairs if pair.weight > 0]  # a pair of weight 0 teaches nothing: steps do not count it
    if not pairs:
        raise DataError(
            "there is no preference pair to learn from",
            where="stage collect, pairs.jsonl: none has a weight above 0",
            mend="look at the file of preferences: rlp data check FILE --as preferences",
        )
    if held_out == 0:
        return pairs, []
    texts = [normalised(pair.prompt) for pair in pairs]
    counts = Counter(texts)
    instructions = list(counts)
    chosen: set[str] = set()
    size = 0
    for index in permutation(len(instructions), seed, "held-out"):
        if size >= held_out:
            break
        chosen.add(instructions[index])
        size += counts[instructions[index]]
    training = [pair for pair, text in zip(pairs, texts, strict=True) if text not in chosen]
    if not training:
        raise DataError(
            f"no pair is left for training: train_rm.held_out = {held_out} of {len(pairs)} pairs",
            where=f"stage collect, pairs.jsonl: {len(instructions)} instructions, and each is held out whole",
            mend=f"--set train_rm.held_out={len(pairs) // 10}"
            if len(instructions) > 1
            else "--set train_rm.held_out=0",
        )
    return training, [pair for pair, text in zip(pairs, texts, strict=True) if text in chosen]


def new_reward_model(context: StageContext, device: torch.device, key: tuple[KeyPart, ...]) -> RewardModel:
    """The backbone with a new head, seeded by the key; adapters when the config asks for them."""
    model = context.config.model
    reward_model = load_reward(
        context.inputs["backbone"], model, device=device, from_policy=True, seed=torch_seed(*key, "head")
    )
    add_lora(reward_model, model.lora, seed=torch_seed(*key, "lora"))
    return reward_model


def save_and_check(
    context: StageContext, reward_model: RewardModel, held_out: Sequence[PreferencePair]
) -> dict[str, Any]:
    """Save the model, and its adapters alone for PPO; accuracy and mean margin on the held-out pairs."""
    save_reward(reward_model, context.out / "model")
    lora = context.config.model.lora
    if lora.rank:
        save_reward_adapter(reward_model, lora, context.out / "adapter")
    if not held_out:
        return {"held_out_pairs": 0}
    config = context.config.train_rm
    scorer = scorer_of(context, reward_model, microbatch=config.score_microbatch, max_length=config.max_length)
    prompts = [pair.prompt for pair in held_out]
    chosen = torch.tensor(scorer.score_responses(prompts, [pair.chosen for pair in held_out]))
    rejected = torch.tensor(scorer.score_responses(prompts, [pair.rejected for pair in held_out]))
    return {
        "held_out_pairs": len(held_out),
        "held_out_accuracy": float(pair_accuracy(chosen, rejected)),
        "held_out_margin": float((chosen - rejected).mean()),
    }
