"""Preferences D -> reward model r, by Bradley-Terry from the SFT policy (Algorithm 1, line 2; METHOD 4).

Outputs: model/ (AutoModelForSequenceClassification with one label and its tokenizer; adapters merged); with LoRA
adapter/ (the adapters and the head alone, for PPO's one copy of the base: models/shared_base.py).
"""

from __future__ import annotations

from typing import Any

from rlp_engine.data.rows import read_pairs
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.stages.common import after_training, prepare_device, train, warn_of_pairs
from rlp_engine.stages.reward_training import new_reward_model, save_and_check, split_held_out
from rlp_engine.stages.spec import StageContext
from rlp_engine.training.pairs import PairsTask


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    device = prepare_device(context)
    seed_parts = (config.seed, 0, "train-rm")
    pairs = list(read_pairs(context.inputs["pairs"]))
    training, held_out = split_held_out(pairs, config.train_rm.held_out, config.seed)
    reward_model = new_reward_model(context, device, seed_parts)
    template = PromptTemplate(config.model.template, reward_model.tokenizer)
    settings = {"seed_parts": seed_parts, "max_length": config.train_rm.max_length, "deepspeed": config.deepspeed}
    task = PairsTask(reward_model, template, training, config.train_rm, **settings)
    warn_of_pairs(context, task.batches)
    metrics = train(context, task)
    accuracy = after_training(task, lambda: save_and_check(context, reward_model, held_out))
    return {"pairs": len(training), "optimizer_steps": task.total_steps, "loss": metrics.get("loss"), **accuracy}
