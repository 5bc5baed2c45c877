"""Demonstrations -> SFT policy, with the loss on response tokens only (Algorithm 1, step 0; METHOD 4.4, 4.5).

Outputs: model/ (AutoModelForCausalLM with its tokenizer; adapters merged).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlp_engine.data.records import Demonstration, Prompt
from rlp_engine.data.rows import read_demonstrations, read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.lora import add_lora
from rlp_engine.models.policy import Policy, load_policy, save_policy
from rlp_engine.models.scratch import build_scratch
from rlp_engine.randomness import torch_seed
from rlp_engine.stages.common import after_training, prepare_device, train, warn_of
from rlp_engine.stages.spec import StageContext
from rlp_engine.training.sft import SftTask


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    device = prepare_device(context)
    demonstrations = list(read_demonstrations(context.inputs["demonstrations"]))
    policy = starting_policy(context, demonstrations, device)
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())  # of the model that is saved
    add_lora(policy.model, config.model.lora, seed=torch_seed(config.seed, 0, "sft", "lora"))
    template = PromptTemplate(config.model.template, policy.tokenizer)
    seed_parts = (config.seed, 0, "sft")
    task = SftTask(policy, template, demonstrations, config.sft, seed_parts=seed_parts, deepspeed=config.deepspeed)
    tell_left_out(context, task, len(demonstrations))
    metrics = train(context, task)
    after_training(task, lambda: save_policy(policy, context.out / "model"))
    return {
        "demonstrations": len(demonstrations),
        "parameters": parameters,
        "optimizer_steps": task.total_steps,
        "loss": metrics.get("loss"),
    }


def tell_left_out(context: StageContext, task: SftTask, total: int) -> None:
    """Warn of demonstrations that are read in part, and of those whose prompt alone fills the length."""
    limit, count = f"sft.max_length = {context.config.sft.max_length}", task.num_without_response
    left_out = f"{count} of {total} demonstrations have no response within {limit} tokens and are left out"
    warn_of(context, task.cuts.told("demonstrations", limit), [left_out] * bool(count))


def starting_policy(context: StageContext, demonstrations: list[Demonstration], device) -> Policy:
    """The base model by path or hub id, or a new one with a tokenizer trained on the run's own data."""
    config = context.config
    if config.model.init == "pretrained":
        return load_policy(context.inputs["base_model"], config.model, device=device)
    tables = [context.inputs[name] for name in ("preference_instructions", "unlabeled") if name in context.inputs]
    prompts = [prompt for table in tables for prompt in read_prompts(table)]
    return build_scratch(config.model, training_texts(demonstrations, prompts), seed=config.seed, device=device)


def training_texts(demonstrations: list[Demonstration], prompts: list[Prompt]) -> Iterator[str]:
    """What a new tokenizer is trained on: demonstrations with their answers, and bare instructions."""
    for demonstration in demonstrations:
        yield from (demonstration.prompt.instruction, demonstration.prompt.input, demonstration.output)
    for prompt in prompts:
        yield from (prompt.instruction, prompt.input)
