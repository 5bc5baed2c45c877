"""Training tasks on a tiny model, built the same in a test and in the process that a test kills."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from rlp_engine.config.sections.generation import GenerationConfig
from rlp_engine.config.sections.model import DeepSpeedConfig, ModelConfig, ScratchConfig
from rlp_engine.config.sections.ppo import PpoConfig
from rlp_engine.config.sections.reward import MultiViewConfig, RefineRmConfig
from rlp_engine.config.sections.training import CheckpointConfig, LogConfig, OptimizerConfig, SftConfig
from rlp_engine.data.records import Demonstration, PreferencePair, Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.lora import add_lora
from rlp_engine.models.policy import Policy, load_policy, save_policy
from rlp_engine.models.reward import ResponseScorer, RewardModel, load_reward
from rlp_engine.models.scratch import build_scratch
from rlp_engine.models.value import load_value
from rlp_engine.run.events import EventLog
from rlp_engine.run.reporting import NullReporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.training.multi_view_task import MultiViewTask
from rlp_engine.training.pairs import PairsTask
from rlp_engine.training.ppo import PpoTask
from rlp_engine.training.sft import SftTask
from rlp_engine.training.steps import Task, run_steps
from rlp_engine.training.views import AnswerViews, PolicyAnswers

DEEPSPEED = DeepSpeedConfig()  # read in processes that a launcher started; they set it

COLOURS = ["red", "blue", "green", "white", "black", "brown", "pink", "grey", "gold", "teal", "lime", "navy"]
THINGS = ["sky", "grass", "snow", "coal", "rose", "leaf", "stone", "wheat", "sea", "lemon", "night", "wood"]
PROMPTS = [Prompt(f"p{i}", f"what colour is {thing} ?") for i, thing in enumerate(THINGS)]
MODEL = ModelConfig(
    scratch=ScratchConfig(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24, init_std=0.3, tokenizer="word"
    )
)
FAST = OptimizerConfig(learning_rate=5e-3, schedule="linear", warmup=2)
GENERATION = GenerationConfig(max_prompt_tokens=16, max_new_tokens=6, rows=8)


def answer(i: int, colour: int) -> str:
    return f"it is {COLOURS[colour % 12]} ." + " i think so ." * (i % 3)


DEMONSTRATIONS = [Demonstration(prompt, answer(i, i)) for i, prompt in enumerate(PROMPTS)]
PAIRS = [PreferencePair(prompt, answer(i, i), answer(i + 1, i + 5)) for i, prompt in enumerate(PROMPTS)]
ANSWERS = [PolicyAnswers(prompt, [answer(i, i), answer(i, i + 1), answer(i, i)]) for i, prompt in enumerate(PROMPTS)]


def save_tiny_policy(folder: Path) -> Path:
    texts = [text for d in DEMONSTRATIONS for text in (d.prompt.instruction, d.output)]
    save_policy(build_scratch(MODEL, texts, seed=5), folder)
    return folder


def template_of(model: Policy | RewardModel) -> PromptTemplate:
    return PromptTemplate("plain", model.tokenizer)


def sft_task(folder: Path, demonstrations=DEMONSTRATIONS, lora=None, **changes) -> SftTask:
    policy = load_policy(folder, MODEL)
    if lora:
        add_lora(policy.model, lora, seed=4)
    config = SftConfig(**({"epochs": 4, "minibatch": 5, "microbatch": 2, "optimizer": FAST} | changes))
    return SftTask(policy, template_of(policy), demonstrations, config, seed_parts=(1, 0, "sft"), deepspeed=DEEPSPEED)


def reward_of(folder: Path) -> RewardModel:
    return load_reward(folder, MODEL, from_policy=True, seed=3)


def pairs_task(folder: Path, pairs=PAIRS, total_steps=None, **changes) -> PairsTask:
    reward_model = reward_of(folder)
    config = RefineRmConfig(**({"epochs": 3, "minibatch": 5, "microbatch": 2, "optimizer": FAST} | changes))
    return PairsTask(
        reward_model,
        template_of(reward_model),
        pairs,
        config,
        seed_parts=(1, 0, "rm"),
        max_length=64,
        total_steps=total_steps,
        deepspeed=DEEPSPEED,
    )


def multi_view_task(folder: Path, kind="uml", answers=ANSWERS, epochs=2, view_pairs=None, **changes) -> MultiViewTask:
    reward_model = reward_of(folder)
    views = {"pairs_per_step": 8, "microbatch": 8, "hidden_size": 12, "latent_size": 4, "warmup_steps": 3} | changes
    config = RefineRmConfig(
        epochs=epochs, minibatch=5, microbatch=5, optimizer=FAST, multi_view=MultiViewConfig(**views)
    )
    template, seed_parts = template_of(reward_model), (1, 1, "refine-rm")

    def encode(prompt, text):
        return template.encode_scored(prompt, text, 64)

    pairs = (
        view_pairs(encode) if view_pairs else AnswerViews(answers, encode, config.multi_view.pairs_per_step, seed_parts)
    )
    return MultiViewTask(
        reward_model,
        template,
        PAIRS,
        pairs,
        config,
        kind=kind,
        seed_parts=seed_parts,
        max_length=64,
        deepspeed=DEEPSPEED,
    )


def ppo_task(
    folder: Path,
    scorer=None,
    lora=None,
    policy=None,
    value_model=None,
    reward_mean=0.0,
    reward_std=1.0,
    held_out_pairs=(),
    **changes,
) -> PpoTask:
    """`policy` and `value_model` that have their adapters, or tiny ones; with `lora` only the policy has some."""
    reference = None if lora or policy else load_policy(folder, MODEL).model
    policy = policy or load_policy(folder, MODEL)
    if lora:
        add_lora(policy.model, lora, seed=4)
    reward_model = reward_of(folder)
    settings = {"steps": 6, "rollout_batch": 16, "minibatch": 8, "microbatch": 4, "kl_coefficient": 0.1}
    return PpoTask(
        policy,
        reference=reference,
        value_model=value_model or load_value(folder, MODEL),
        scorer=scorer or ResponseScorer(reward_model, template_of(reward_model), microbatch=8, max_length=64),
        template=template_of(policy),
        prompts=PROMPTS,
        config=PpoConfig(**(settings | {"optimizer": FAST} | changes)),
        generation=GENERATION,
        seed_parts=(1, 0, "ppo"),
        reward_mean=reward_mean,
        reward_std=reward_std,
        held_out_pairs=held_out_pairs,
        deepspeed=DEEPSPEED,
    )


TASKS = {
    "sft": lambda folder: sft_task(folder),
    "multi-view": lambda folder: multi_view_task(folder),
    "ppo": lambda folder: ppo_task(folder, kl_controller="adaptive", kl_target=0.01),
}


def train(task: Task, out: Path, *, reporter=None, stop=None, after_step=None, every_steps=2, keep=2, log_every=1):
    out.mkdir(exist_ok=True)
    return run_steps(
        task,
        out=out,
        name="stage",
        checkpoint=CheckpointConfig(every_steps=every_steps, keep=keep),
        log=LogConfig(every_steps=log_every, samples_every_steps=2, samples=3),
        reporter=reporter or NullReporter(),
        stop=stop or StopSignal(),
        events=EventLog(out / "events.jsonl"),
        after_step=after_step,
    )


class Recorder(NullReporter):
    """Keeps what people would be told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warned: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def train_and_die(name: str, folder: Path, out: Path, last_step: int) -> None:
    """Train until `last_step` and end the process as a power cut would."""

    def die(step: int) -> None:
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(TASKS[name](folder), out, after_step=die)


def main(folder: str, outs: str, last_step: str) -> int:
    """Kill one process for each task, forked from here so that the imports are paid once. 0 = all died by SIGKILL."""
    torch.set_num_threads(1)
    children = []
    for name in TASKS:
        child = os.fork()
        if child == 0:
            train_and_die(name, Path(folder), Path(outs) / name, int(last_step))
            os._exit(1)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return int(not all(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL for status in statuses))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
