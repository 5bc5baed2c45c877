"""Supervised fine-tuning by rlp_engine.training.sft: `python -m benchmarks.speed.ours.sft JOB`."""

from __future__ import annotations

import sys

from benchmarks.speed.clock import Job, one_thread, read_job, report
from benchmarks.speed.workload import Ids, text_of
from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.config.sections.training import OptimizerConfig, SftConfig
from rlp_engine.data.records import Demonstration, Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.policy import Policy, load_policy
from rlp_engine.training.sft import SftTask


def task_of(policy: Policy, rows: list[list[Ids]], job: Job) -> SftTask:
    demonstrations = [
        Demonstration(Prompt(str(number), text_of(prompt)), text_of(response))
        for number, (prompt, response) in enumerate(rows)
    ]
    config = SftConfig(
        epochs=1,
        minibatch=job.settings["minibatch"],
        microbatch=job.batch,
        max_length=job.settings["max_length"],
        optimizer=OptimizerConfig(learning_rate=3e-6),
    )
    template = PromptTemplate("plain", policy.tokenizer)
    return SftTask(policy, template, demonstrations, config, seed_parts=(0, 0, "sft"))


def measure(job: Job) -> None:
    policy = load_policy(job.folder / "policy", ModelConfig(template="plain", dtype=job.dtype), device=job.device)
    work, clock = job.work, job.clock
    task_of(policy, work["warmup"], job).step(1)
    task = task_of(policy, work["items"], job)
    with clock.phase("all"):
        for step in range(1, task.total_steps + 1):
            task.step(step)
    tokens = sum(len(prompt) + len(response) + 1 for prompt, response in work["items"])  # and an EOS
    report(job, clock, units=tokens, optimizer_steps=task.total_steps, trained_tokens=tokens)


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
