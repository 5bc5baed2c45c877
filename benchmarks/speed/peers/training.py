"""What the two TRL trainers share: the clock around an epoch, and settings under which nothing but training is done."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from benchmarks.speed.clock import Clock, Job


class Epoch(TrainerCallback):
    """Times from the first step's begin to the last step's end, without what a trainer sets up around them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.steps = 0
        self.start = clock.now()

    def on_step_begin(self, *_: object, **__: object) -> None:
        if not self.steps:
            self.start = self.clock.now()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.steps += 1

    def on_train_end(self, *_: object, **__: object) -> None:
        self.clock.add("all", self.start)


def settings(job: Job, folder: str, rows: int) -> dict[str, Any]:
    """Keyword arguments of a trainer's config: one epoch, `rows` a forward pass, the job's minibatch a step."""
    return {
        "output_dir": folder,
        "use_cpu": job.device == "cpu",
        "bf16": job.device == "cuda",
        "gradient_checkpointing": False,
        "num_train_epochs": 1,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": max(1, job.settings["minibatch"] // rows),
        "learning_rate": 3e-6,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
