"""Answers by transformers' `generate`: `python -m benchmarks.speed.peers.sampling JOB`.

Its best: prompts sorted by length, many rows at once, no top-k sorting, each prompt given once with
num_return_sequences. Useful tokens end with the first EOS.
"""

from __future__ import annotations

import statistics
import sys

import torch
from transformers import AutoModelForCausalLM

from benchmarks.speed.clock import Job, one_thread, read_job, report


def measure(job: Job) -> None:
    model = AutoModelForCausalLM.from_pretrained(job.folder / "policy", dtype=job.dtype).to(job.device).eval()
    prompts = sorted(job.work["prompts"], key=len, reverse=True)
    per_batch = max(1, job.batch // job.settings["answers"])
    clock = job.clock
    torch.manual_seed(0)
    _answers(model, prompts[:2], job)
    with clock.phase("all"):
        tokens = sum(_answers(model, prompts[i : i + per_batch], job) for i in range(0, len(prompts), per_batch))
    answers = len(prompts) * job.settings["answers"]
    context = statistics.fmean(map(len, prompts)) + tokens / answers / 2
    report(job, clock, units=tokens, answers=answers, context=context)


@torch.no_grad()
def _answers(model: torch.nn.Module, prompts: list[list[int]], job: Job) -> int:
    """Useful tokens of `answers` answers to each of these prompts."""
    eos_id, pad_id = model.config.eos_token_id, model.config.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(one)) + one for one in prompts], device=job.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=(ids != pad_id).long(),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=job.settings["max_new_tokens"],
        num_return_sequences=job.settings["answers"],
        eos_token_id=eos_id,
        pad_token_id=pad_id,
    )[:, width:]
    before_end = (output == eos_id).long().cumsum(dim=1) == 0  # the EOS itself is useful too
    longest = output.shape[1]
    return int((before_end.sum(dim=1) + 1).clamp(max=longest).sum())


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
