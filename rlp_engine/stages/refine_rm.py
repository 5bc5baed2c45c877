"""D with synthetic pairs, with the multi-view loss, or both -> refined reward model (Eq. 1; METHOD 2, 3, 7).

    L = BT(D u D^) + lambda * L_M

`params.method` says which terms there are: spg adds D^, uml adds L_M, uml+spg both; reseed is the control,
D alone with as many optimizer steps as the method it is compared with. Every branch of a round uses the
same seed, another one than train-rm's: what differs between branches is what they learn from.

Outputs: model/, and with LoRA adapter/, as train-rm.
"""

from __future__ import annotations

from typing import Any

from rlp_engine.config.schema import MULTI_VIEW
from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import read_pairs, read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.stages.answering import iterate_folder
from rlp_engine.stages.common import after_training, prepare_device, train, warn_of_pairs
from rlp_engine.stages.reward_training import new_reward_model, save_and_check, split_held_out
from rlp_engine.stages.spec import StageContext
from rlp_engine.training.multi_view_task import MultiViewTask
from rlp_engine.training.order import steps_of
from rlp_engine.training.pairs import PairsTask
from rlp_engine.training.views import PolicyAnswers, view_pairs


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    method = context.spec.params["method"]
    device = prepare_device(context)
    seed_parts = (config.seed, context.spec.params["round"], "refine-rm")
    pairs = list(read_pairs(context.inputs["pairs"]))
    training, held_out = split_held_out(pairs, config.train_rm.held_out, config.seed)
    synthetic = list(read_pairs(context.inputs["synthetic_pairs"])) if "synthetic_pairs" in context.inputs else []
    learned = training if method == "reseed" else training + synthetic
    steps = steps_of(len(training) + len(synthetic), config.refine_rm.epochs, config.refine_rm.minibatch)
    reward_model = new_reward_model(context, device, seed_parts)
    template = PromptTemplate(config.model.template, reward_model.tokenizer)
    settings = {"seed_parts": seed_parts, "max_length": config.train_rm.max_length, "total_steps": steps}
    settings["deepspeed"] = config.deepspeed
    if method in MULTI_VIEW:

        def encode(prompt: Prompt, text: str) -> list[int]:
            ids = template.encode_scored(prompt, text, config.train_rm.max_length)
            reward_model.require_positions(len(ids))
            return ids

        views = view_pairs(config.refine_rm.multi_view, policy_answers(context), encode, seed_parts)
        task = MultiViewTask(
            reward_model, template, learned, views, config.refine_rm, kind=MULTI_VIEW[method], **settings
        )
    else:
        task = PairsTask(reward_model, template, learned, config.refine_rm, **settings)
    warn_of_pairs(context, task.batches)
    metrics = train(context, task)
    return {
        "method": method,
        "pairs": len(training),
        "synthetic_pairs": 0 if method == "reseed" else len(synthetic),
        "optimizer_steps": task.total_steps,
        "loss": metrics.get("loss"),
        **after_training(task, lambda: save_and_check(context, reward_model, held_out)),
    }


def policy_answers(context: StageContext) -> list[PolicyAnswers]:
    """The n samples of each instruction, of which the views are made (METHOD 2.1)."""
    prompts = {prompt.prompt_id: prompt for prompt in read_prompts(context.inputs["unlabeled"])}
    texts: dict[str, list[str]] = {}
    for samples in iterate_folder(context.inputs["samples"]):
        for sample in samples:
            texts.setdefault(sample.prompt_id, []).append(sample.text)
    return [PolicyAnswers(prompts[prompt_id], answers) for prompt_id, answers in texts.items()]
