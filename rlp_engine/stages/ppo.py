"""SFT policy and a reward model -> policy, by PPO (Algorithm 1, lines 3 and 5; METHOD 5).

Outputs: model/ (AutoModelForCausalLM with its tokenizer; adapters merged); reward_scale.json and
selection.json where the config asks for them.
"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from rlp_engine.config.schema import PpoConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.errors import DataError
from rlp_engine.models.lora import add_lora
from rlp_engine.models.policy import Policy, load_policy, save_policy
from rlp_engine.models.reward import ResponseScorer
from rlp_engine.randomness import permutation, torch_seed
from rlp_engine.run.atomic import committed_dir, write_json
from rlp_engine.stages.answering import answerer, short_enough
from rlp_engine.stages.common import after_training, prepare_device, scorer_of, train
from rlp_engine.stages.judging import build_judge
from rlp_engine.stages.ppo_models import ppo_models
from rlp_engine.stages.spec import StageContext
from rlp_engine.training.ppo import PpoTask

REFERENCE_ANSWERS = 1024  # SFT answers, at most, that reward_scale = `reference` is measured on


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    device = prepare_device(config.compute)
    seed_parts = (config.seed, context.spec.params["round"], "ppo")  # siblings share it: common random numbers
    policy = load_policy(context.inputs["sft_policy"], config.model, device=device)
    template = PromptTemplate(config.model.template, policy.tokenizer)
    prompts = list(read_prompts(context.inputs["unlabeled"]))
    prompts = short_enough(context, prompts, template, config.generation.max_prompt_tokens)
    models = ppo_models(context, policy, device)
    scorer = scorer_of(
        context,
        models.reward_model,
        microbatch=config.train_rm.score_microbatch,
        max_length=config.train_rm.max_length,
    )
    scale = reward_scale(context, policy, template, scorer, prompts) if world().is_leader else None
    mean, std = world().broadcast(scale)
    add_lora(policy.model, config.model.lora, seed=torch_seed(*seed_parts, "policy-lora"))
    task = PpoTask(
        policy,
        reference=models.reference,
        value_model=models.value_model,
        scorer=scorer,
        template=template,
        prompts=prompts,
        config=ppo_config(context),
        generation=config.generation,
        seed_parts=seed_parts,
        reward_mean=mean,
        reward_std=std,
        deepspeed=config.deepspeed,
    )
    candidates = candidate_steps(context)

    def after_step(step: int) -> None:
        if step in candidates:
            after_training(task, lambda: save_candidate(context, policy, step))

    metrics = train(context, task, after_step=after_step)
    summary = {name: metrics[name] for name in ("reward", "kl", "length", "eos_share") if name in metrics}
    summary["value_model_from"] = models.value_source
    if config.model.lora.rank:
        summary["one_base_in_memory"] = models.one_base
    if config.ppo.select == "last":
        after_training(task, lambda: save_policy(policy, context.out / "model"))
        return {"steps": task.total_steps, **summary}
    chosen = choose_candidate(context, template, device) if world().is_leader else {}
    return {"steps": task.total_steps, **summary, **chosen}


def ppo_config(context: StageContext) -> PpoConfig:
    """[ppo], with the weight of the KL penalty that a point of the curve asks for."""
    config = context.config.ppo
    if "kl_coefficient" in context.spec.params:
        return config.model_copy(update={"kl_coefficient": context.spec.params["kl_coefficient"]})
    return config


def reward_scale(
    context: StageContext, policy: Policy, template: PromptTemplate, scorer: ResponseScorer, prompts: list[Prompt]
) -> tuple[float, float]:
    """(mean, std) of the rewards of the SFT policy's answers, or (0, 1) (METHOD 7.40).

    Measured once and kept in reward_scale.json, so that a resumed stage uses the same numbers.
    """
    config = context.config
    if config.ppo.reward_scale == "none":
        return 0.0, 1.0
    path = context.out / "reward_scale.json"
    if not path.exists():
        chosen = permutation(len(prompts), config.seed, "reward-scale")[:REFERENCE_ANSWERS]
        subset = [prompts[i] for i in sorted(chosen)]
        key = (config.seed, context.spec.params["round"], "reward-scale", 0)
        source = answerer(policy, template, config.generation, temperature=config.ppo.temperature, top_p=1.0, key=key)
        answers = source.answer(subset, 1, stop=context.stop)
        rewards = scorer.score_responses(subset, [answer.text for answer in answers])
        if len(set(rewards)) < 2:
            raise DataError(
                "the reward model gives every SFT answer the same reward: there is no scale to take",
                where=str(context.inputs["reward_model"]),
                mend="--set ppo.reward_scale=none, or look at the reward model's held-out accuracy",
            )
        scale = {"mean": statistics.fmean(rewards), "std": statistics.pstdev(rewards), "answers": len(rewards)}
        write_json(path, scale)
    scale = json.loads(path.read_text())
    return scale["mean"], scale["std"]


def candidate_steps(context: StageContext) -> set[int]:
    """Steps whose policies compete under ppo.select = `judge`; the last step always does (METHOD 7.32)."""
    ppo = context.config.ppo
    if ppo.select == "last":
        return set()
    return {step for step in ppo.candidates if step <= ppo.steps} | {ppo.steps}


def candidate_folder(context: StageContext, step: int) -> Path:
    return context.out / "candidates" / f"step_{step:06d}"


def save_candidate(context: StageContext, policy: Policy, step: int) -> None:
    """Keep this step's policy, in one rename. A killed stage may come here twice for a step: same weights."""
    folder = candidate_folder(context, step)
    if not folder.exists():
        with committed_dir(folder) as part:
            save_policy(policy, part)


def choose_candidate(context: StageContext, template: PromptTemplate, device: torch.device) -> dict[str, Any]:
    """Make the candidate with the best mean score on the validation instructions the stage's model.

    Safe to kill: selection.json is written after model/ is whole, and the candidates go last.
    """
    selection = context.out / "selection.json"
    if not selection.exists():
        judge_name, scores = judge_candidates(context, template, device)
        best = max(scores, key=lambda step: (scores[step], -step))
        shutil.rmtree(context.out / "model", ignore_errors=True)
        with committed_dir(context.out / "model") as part:
            shutil.copytree(candidate_folder(context, best), part, dirs_exist_ok=True)
        write_json(selection, {"judge": judge_name, "scores": scores, "selected_step": best})
    shutil.rmtree(context.out / "candidates", ignore_errors=True)
    chosen = json.loads(selection.read_text())
    return {
        "selected_step": chosen["selected_step"],
        "validation_score": chosen["scores"][str(chosen["selected_step"])],
    }


def judge_candidates(
    context: StageContext, template: PromptTemplate, device: torch.device
) -> tuple[str, dict[int, float]]:
    """(name of the judge, step -> mean score of that candidate's answers to the validation instructions)."""
    config = context.config
    judge = build_judge(config.evaluate.judge, context, "judge", device)
    prompts = list(read_prompts(context.inputs["validation"]))
    scores: dict[int, float] = {}
    for step in sorted(candidate_steps(context)):
        candidate = load_policy(candidate_folder(context, step), config.model, device=device)
        source = answerer(
            candidate,
            template,
            config.generation,
            temperature=config.evaluate.temperature,
            top_p=config.evaluate.top_p,
            key=(config.seed, context.spec.params["round"], "ppo-select", 0),
        )
        answers = source.answer(prompts, 1, stop=context.stop)
        judged = judge.scores(prompts, [a.text for a in answers], [a.finish_reason for a in answers])
        scores[step] = statistics.fmean(judged)
        context.reporter.line(f"{context.spec.name}: step {step} scores {scores[step]:.4g} on validation")
    return judge.name, scores
