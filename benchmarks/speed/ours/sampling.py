"""Answers by rlp_engine.generation.native: `python -m benchmarks.speed.ours.sampling JOB`."""

from __future__ import annotations

import statistics
import sys

from benchmarks.speed.clock import Job, one_thread, read_job, report
from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.generation.native import Request, Sampling, generate
from rlp_engine.models.policy import load_policy


def measure(job: Job) -> None:
    policy = load_policy(job.folder / "policy", ModelConfig(template="plain", dtype=job.dtype), device=job.device)
    prompts = job.work["prompts"]
    requests = [
        Request(prompt_ids=ids, key=(0, 0, "speed", 0, str(number), draw))
        for number, ids in enumerate(prompts)
        for draw in range(job.settings["answers"])
    ]
    sampling = Sampling(1.0, 1.0, job.settings["max_new_tokens"], policy.eos_ids, policy.tokenizer.pad_token_id)
    clock = job.clock
    generate(policy.model, requests[:20], sampling, rows=job.batch)
    with clock.phase("all"):
        completions = generate(policy.model, requests, sampling, rows=job.batch)
    tokens = sum(len(completion.token_ids) for completion in completions)
    context = statistics.fmean(map(len, prompts)) + tokens / len(completions) / 2
    report(job, clock, units=tokens, answers=len(completions), context=context)


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
