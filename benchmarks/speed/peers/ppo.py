"""PPO updates by TRL's experimental PPOTrainer: `python -m benchmarks.speed.peers.ppo JOB`.

One minibatch a rollout, as ours, so that an epoch is one optimizer step: with more, TRL's accumulation steps once
a rollout all the same. Sampled completions for its log, saving and reporting are off.
"""

from __future__ import annotations

import statistics
import sys
import tempfile

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.speed.clock import Clock, Job, one_thread, read_job, report


class Boundaries(TrainerCallback):
    """Ends an update where TRL does, and forgets the clock after the warm-up."""

    def __init__(self, clock: Clock, warmup: int) -> None:
        self.clock, self.warmup, self.done = clock, warmup, 0
        self.update_start = self.learn_start = clock.now()

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.update_start = self.clock.now()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.clock.add("optimise", self.learn_start)
        self.clock.add("all", self.update_start)
        self.done += 1
        if self.done == self.warmup:
            self.clock.reset()
        self.update_start = self.clock.now()


def build_trainer(job: Job, boundaries: Boundaries, folder: str) -> PPOTrainer:
    work = job.settings
    causal, classifier = AutoModelForCausalLM, AutoModelForSequenceClassification
    policy, reference = (causal.from_pretrained(job.folder / "policy", dtype=job.dtype) for _ in range(2))
    reward, value = (classifier.from_pretrained(job.folder / "reward", dtype=job.dtype) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "policy", padding_side="left")
    config = PPOConfig(
        output_dir=folder,
        use_cpu=job.device == "cpu",
        bf16=job.device == "cuda",
        gradient_checkpointing=False,
        total_episodes=work["batch"] * (work["warmup"] + work["updates"]),
        per_device_train_batch_size=job.batch,
        gradient_accumulation_steps=work["batch"] // job.batch,
        local_rollout_forward_batch_size=work["batch"],
        num_mini_batches=1,
        num_ppo_epochs=work["epochs"],
        response_length=work["max_new_tokens"],
        stop_token="eos",
        temperature=1.0,
        learning_rate=3e-6,
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": job.work["prompts"]}),
        callbacks=[boundaries],
    )


def measure(job: Job) -> None:
    """Phases: generate, score (until the advantages are whitened), optimise."""
    clock, work = job.clock, job.settings
    boundaries = Boundaries(clock, work["warmup"])
    lengths: list[float] = []
    whiten = ppo_trainer.masked_whiten

    def whitened(values_BT, mask_BT, **kwargs):  # called once an update, just before the epochs
        result_BT = whiten(values_BT, mask_BT, **kwargs)
        lengths.append(float(mask_BT.sum(dim=1).float().mean()))
        boundaries.learn_start = clock.now()
        return result_BT

    ppo_trainer.masked_whiten = whitened
    with tempfile.TemporaryDirectory() as folder, clock.watching(ppo_trainer, "batch_generation", "generate"):
        build_trainer(job, boundaries, folder).train()
    assert boundaries.done == work["warmup"] + work["updates"], f"TRL made {boundaries.done} updates"
    for seconds in (clock.cpu, clock.wall):
        seconds["score"] = seconds["all"] - seconds["generate"] - seconds["optimise"]
    answers = work["updates"] * work["batch"]
    mean_answer = statistics.fmean(lengths[work["warmup"] :])
    tokens = answers * work["epochs"] * (statistics.fmean(map(len, job.work["prompts"])) + mean_answer)
    report(job, clock, units=answers, updates=work["updates"], mean_answer=mean_answer, trained_tokens=tokens)


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
