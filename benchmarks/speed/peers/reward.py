"""Reward training by TRL's RewardTrainer: `python -m benchmarks.speed.peers.reward JOB`."""

from __future__ import annotations

import sys
import tempfile

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from benchmarks.speed.clock import Clock, Job, one_thread, read_job, report
from benchmarks.speed.peers.training import Epoch, settings
from benchmarks.speed.workload import Ids


def train(model, tokenizer, rows: list[list[Ids]], job: Job, clock: Clock) -> Epoch:
    """One epoch over these pairs, ready tokenised."""
    epoch = Epoch(clock)
    data = {
        "chosen_ids": [prompt + chosen for prompt, chosen, _ in rows],
        "rejected_ids": [prompt + rejected for prompt, _, rejected in rows],
    }
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(max_length=None, **settings(job, folder, job.batch))
        trainer = RewardTrainer(
            model, args=config, train_dataset=Dataset.from_dict(data), processing_class=tokenizer, callbacks=[epoch]
        )
        trainer.train()
    return epoch


def measure(job: Job) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(job.folder / "reward", dtype=job.dtype)
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "reward")
    work, clock = job.work, job.clock
    train(model, tokenizer, work["warmup"], job, clock)
    clock.reset()
    epoch = train(model, tokenizer, work["items"], job, clock)
    tokens = sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in work["items"])
    report(job, clock, units=len(work["items"]), optimizer_steps=epoch.steps, trained_tokens=tokens)


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
