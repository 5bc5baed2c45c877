"""Reward training by rlp_engine.training.pairs: `python -m benchmarks.speed.ours.reward JOB`."""

from __future__ import annotations

import sys

from benchmarks.speed.clock import Job, one_thread, read_job, report
from benchmarks.speed.workload import Ids, text_of
from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.config.sections.reward import RewardTrainingConfig
from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.reward import RewardModel, load_reward
from rlp_engine.training.pairs import PairsTask


def task_of(reward_model: RewardModel, rows: list[list[Ids]], job: Job) -> PairsTask:
    pairs = [
        PreferencePair(Prompt(str(number), text_of(prompt)), text_of(chosen), text_of(rejected))
        for number, (prompt, chosen, rejected) in enumerate(rows)
    ]
    config = RewardTrainingConfig(
        epochs=1,
        minibatch=job.settings["minibatch"],
        microbatch=job.batch,
        optimizer=OptimizerConfig(learning_rate=3e-6),
    )
    template = PromptTemplate("plain", reward_model.tokenizer)
    return PairsTask(reward_model, template, pairs, config, seed_parts=(0, 0, "train-rm"), max_length=1024)


def measure(job: Job) -> None:
    model = ModelConfig(template="plain", dtype=job.dtype)
    reward_model = load_reward(job.folder / "reward", model, device=job.device)
    work, clock = job.work, job.clock
    task_of(reward_model, work["warmup"], job).step(1)
    task = task_of(reward_model, work["items"], job)
    with clock.phase("all"):
        for step in range(1, task.total_steps + 1):
            task.step(step)
    tokens = sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in work["items"])
    report(job, clock, units=len(work["items"]), optimizer_steps=task.total_steps, trained_tokens=tokens)


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
