"""Supervised fine-tuning by TRL's SFTTrainer: `python -m benchmarks.speed.peers.sft JOB`.

The job's batch is "MODE ROWS". Modes: padded (TRL's default), by length (rows of like length together),
padding-free (rows put one after the other into one), packed (rows filled to max_length; a minibatch then
holds as many tokens as the others' on average, not the same examples).
"""

from __future__ import annotations

import sys
import tempfile

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.speed.clock import Clock, Job, one_thread, read_job, report
from benchmarks.speed.peers.training import Epoch, settings
from benchmarks.speed.workload import Ids


def config_of(job: Job, folder: str, num_tokens: int, num_rows: int) -> SFTConfig:
    mode, rows = job.batch.rsplit(" ", 1)
    values = settings(job, folder, int(rows)) | {"completion_only_loss": True, "max_length": job.settings["max_length"]}
    if mode == "by length":
        values["train_sampling_strategy"] = "group_by_length"
    elif mode == "padding-free":
        values |= {"padding_free": True, "max_length": None}
    elif mode == "packed":
        packed_rows = job.settings["minibatch"] * num_tokens / num_rows / job.settings["max_length"]
        values |= {"packing": True, "gradient_accumulation_steps": max(1, round(packed_rows / int(rows)))}
    elif mode != "padded":
        raise ValueError(f"unknown mode {mode!r}")
    return SFTConfig(**values)


def train(model, tokenizer, rows: list[list[Ids]], job: Job, clock: Clock) -> Epoch:
    """One epoch over these examples, ready tokenised, the loss on responses only."""
    epoch = Epoch(clock)
    eos = [tokenizer.eos_token_id]
    data = {
        "input_ids": [prompt + response + eos for prompt, response in rows],
        "completion_mask": [[0] * len(prompt) + [1] * (len(response) + 1) for prompt, response in rows],
    }
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(job, folder, sum(map(len, data["input_ids"])), len(rows))
        trainer = SFTTrainer(
            model, args=config, train_dataset=Dataset.from_dict(data), processing_class=tokenizer, callbacks=[epoch]
        )
        trainer.train()
    return epoch


def measure(job: Job) -> None:
    model = AutoModelForCausalLM.from_pretrained(job.folder / "policy", dtype=job.dtype)
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "policy")
    work, clock = job.work, job.clock
    train(model, tokenizer, work["warmup"], job, clock)
    clock.reset()
    epoch = train(model, tokenizer, work["items"], job, clock)
    tokens = sum(len(prompt) + len(response) + 1 for prompt, response in work["items"])
    report(job, clock, units=tokens, optimizer_steps=epoch.steps, trained_tokens=tokens)


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
