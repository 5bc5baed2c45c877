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

from rlp_engine.config.sections.ppo import PpoConfig
from rlp_engine.data.records import PreferencePair, Prompt, Sample
from rlp_engine.data.rows import read_pairs, read_prompts
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.errors import DataError
from rlp_engine.evaluation.judges import Judge, ScoringJudge
from rlp_engine.evaluation.winrate import win_rate
from rlp_engine.models.finite import require_finite
from rlp_engine.models.lora import add_lora
from rlp_engine.models.policy import Policy, load_policy, save_policy
from rlp_engine.models.reward import ResponseScorer
from rlp_engine.randomness import permutation, torch_seed
from rlp_engine.run.atomic import committed_dir, write_json
from rlp_engine.stages.answering import answerer, require_room, short_enough
from rlp_engine.stages.common import after_training, prepare_device, scorer_of, train, warn_of
from rlp_engine.stages.judging import build_judge, told_costs
from rlp_engine.stages.ppo_models import ppo_models
from rlp_engine.stages.reward_training import split_held_out
from rlp_engine.stages.spec import StageContext
from rlp_engine.training.ppo import PpoTask

REFERENCE_ANSWERS = 1024  # SFT answers, at most, that reward_scale = `reference` is measured on
LEAST_SPREAD = 1e-4  # nats; below, rounding (bfloat16's above all) is as large
LOW_SPREAD = 1e-2  # nats; told


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    device = prepare_device(context)
    seed_parts = (config.seed, context.spec.params["round"], "ppo")  # siblings share it: common random numbers
    policy = load_policy(context.inputs["sft_policy"], config.model, device=device)
    template = PromptTemplate(config.model.template, policy.tokenizer)
    prompts = list(read_prompts(context.inputs["unlabeled"]))
    prompts = short_enough(context, prompts, template, config.generation.max_prompt_tokens)
    models = ppo_models(context, policy, device)
    readers = {"the policy": policy.model, "the value model": models.value_model.backbone}
    require_room(readers, template, prompts, config.generation)
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
        held_out_pairs=held_out_pairs(context),
        deepspeed=config.deepspeed,
    )
    candidates = candidate_steps(context)

    def after_step(step: int) -> None:
        if step in candidates:
            after_training(task, lambda: save_candidate(context, policy, step))

    metrics = train(context, task, after_step=after_step)
    limit = scorer.limit_in_words("train_rm.max_length")
    warn_of(context, scorer.cuts.told("answers, with their prompts, as the reward model reads them,", limit))
    summary = {name: metrics[name] for name in ("reward", "kl", "length", "eos_share") if name in metrics}
    summary["value_model_from"] = models.value_source
    if config.model.lora.rank:
        summary["one_base_in_memory"] = models.one_base
    if config.ppo.select == "last":
        after_training(task, lambda: save_policy(policy, context.out / "model"))
        return {"steps": task.total_steps, **summary}
    chosen = choose_candidate(context, template, device) if world().is_leader else {}
    return {"steps": task.total_steps, **summary, **chosen}


def held_out_pairs(context: StageContext) -> list[PreferencePair]:
    """The pairs that the policy's agreement is measured on: of those held out of reward training, some by the run's
    seed. None when the file is gone: what is learned does not depend on it."""
    config, path = context.config, Path(context.inputs["pairs"])
    wanted = config.ppo.health.agreement_pairs
    if not wanted or not config.train_rm.held_out:
        return []
    if not world().broadcast(path.is_file()):
        context.reporter.warn(f"{context.spec.name}: {path} is gone: agreement with held-out pairs is not watched")
        return []
    _, held_out = split_held_out(read_pairs(path), config.train_rm.held_out, config.seed)
    chosen = permutation(len(held_out), config.seed, "agreement")[:wanted]
    return [held_out[i] for i in sorted(chosen)]


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
        model = str(context.inputs["reward_model"])
        require_finite(rewards, "a reward", model=model, place=lambda index: f"prompt {subset[index].prompt_id}")
        mean, std = statistics.fmean(rewards), statistics.pstdev(rewards)
        require_spread(std, model, context)
        write_json(path, {"mean": mean, "std": std, "answers": len(rewards)})
    scale = json.loads(path.read_text())
    return scale["mean"], scale["std"]


def require_spread(std: float, reward_model: str, context: StageContext) -> None:
    """Dividing by a standard deviation of rewards that says nothing would make a reward of rounding errors.

    A difference of d nats is a preference of about 50 % + d/4: at LEAST_SPREAD the reward model tells no answer from
    another.

    Raises:
        DataError: it is below LEAST_SPREAD.
    """
    what = f"the rewards of the SFT policy's answers have a standard deviation of {std:.2g}"
    mend = "--set ppo.reward_scale=none, or look at those answers (are they empty?) and the reward model's accuracy"
    if std < LEAST_SPREAD:
        raise DataError(f"{what}: there is no scale to take", where=reward_model, mend=mend)
    if std < LOW_SPREAD:
        context.reporter.warn(f"{context.spec.name}: {what}; ppo.reward_scale makes them {1 / std:.0f} times larger")


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
    """Make the candidate with the best mean score on the validation instructions the stage's model; with a judge that
    only compares, the best win-rate.

    Safe to kill: selection.json is written after model/ is whole, and the candidates go last.
    """
    selection = context.out / "selection.json"
    costs: dict[str, Any] = {}  # not in selection.json: they tell what was paid now, which a restart changes
    if not selection.exists():
        judge_name, scores, costs = judge_candidates(context, template, device)
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
        **costs,
    }


def judge_candidates(
    context: StageContext, template: PromptTemplate, device: torch.device
) -> tuple[str, dict[int, float], dict[str, Any]]:
    """(name of the judge, step -> what that candidate's answers to the validation instructions are worth, costs)."""
    judge = build_judge(context.config.evaluate.judge, context, "judge", device)
    prompts = short_enough(context, list(read_prompts(context.inputs["validation"])), template, None)
    steps = sorted(candidate_steps(context))
    references: list[str | None] = []
    if not isinstance(judge, ScoringJudge):
        references = [prompt.reference for prompt in prompts]
        if all(reference is None for reference in references):
            sft = Path(context.inputs["sft_policy"])
            references = [answer.text for answer in validation_answers(context, sft, template, prompts, device)]
    scores: dict[int, float] = {}
    for step in steps:
        answers = validation_answers(context, candidate_folder(context, step), template, prompts, device)
        scores[step] = worth(judge, prompts, answers, references)
        context.reporter.line(f"{context.spec.name}: step {step} scores {scores[step]:.4g} on validation")
    return judge.name, scores, told_costs(context, judge)


def validation_answers(
    context: StageContext, model: Path, template: PromptTemplate, prompts: list[Prompt], device: torch.device
) -> list[Sample]:
    """One answer to each, decoded as `evaluate` does."""
    config = context.config
    source = answerer(
        load_policy(model, config.model, device=device),
        template,
        config.generation,
        temperature=config.evaluate.temperature,
        top_p=config.evaluate.top_p,
        key=(config.seed, context.spec.params["round"], "ppo-select", 0),
    )
    return source.answer(prompts, 1, stop=context.stop)


def worth(judge: Judge, prompts: list[Prompt], answers: list[Sample], references: list[str | None]) -> float:
    """Mean score of the answers; with a judge that only compares, their win-rate in per cent.

    Args:
        references: what a judge that only compares compares with: the references of the validation instructions (those
            without one do not count), or the SFT policy's answers when none has one. As in `evaluate`.
    """
    if isinstance(judge, ScoringJudge):
        return statistics.fmean(judge.scores(prompts, [a.text for a in answers], [a.finish_reason for a in answers]))
    rows = [row for row in zip(prompts, references, answers, strict=True) if row[1] is not None]
    compared = judge.compare([p for p, _, _ in rows], [r for _, r, _ in rows], [a.text for _, _, a in rows])
    return win_rate(compared).win_rate
