"""The algorithm as papers write it (METHOD 3.1): one pair a forward pass, both directions always asked, answers in
order against one leader after the other, nothing remembered: `python -m benchmarks.speed.ours.naive JOB`.
"""

from __future__ import annotations

import sys

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.speed.clock import Job, one_thread, read_job, report
from benchmarks.speed.entailment import ENTAILMENT
from benchmarks.speed.ours.clustering import load


@torch.inference_mode()
def entails(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, premise: str, hypothesis: str) -> bool:
    batch = tokenizer(premise, hypothesis, return_tensors="pt").to(model.device)
    return int(model(**batch).logits.argmax()) == ENTAILMENT


def walk(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, answers: list[str]) -> list[int]:
    """Cluster id of every answer."""
    leaders: list[str] = []
    ids: list[int] = []
    for text in (f"{question} {answer}" for answer in answers):
        for cluster, leader in enumerate(leaders):
            forward = entails(model, tokenizer, leader, text)
            backward = entails(model, tokenizer, text, leader)
            if forward and backward:
                ids.append(cluster)
                break
        else:
            ids.append(len(leaders))
            leaders.append(text)
    return ids


def measure(job: Job) -> None:
    items, model, tokenizer, about = load(job)
    walk(model, tokenizer, items[0][0].instruction, items[0][1])
    model.pairs = 0
    clock = job.clock
    with clock.phase("all"):
        clusters = [walk(model, tokenizer, prompt.instruction, answers) for prompt, answers in items]
    report(job, clock, units=len(items), forwards=model.pairs, clusters=clusters, **about)


if __name__ == "__main__":
    one_thread()
    measure(read_job(sys.argv[1]))
