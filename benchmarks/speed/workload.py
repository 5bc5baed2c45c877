"""Prompts, answers and pairs of known length, the same for both sides. Texts are words w5 w17 ...: one token each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CONTROL_TOKENS = ("[PAD]", "[EOS]", "[UNK]")  # ids 0, 1, 2; words come after them
Ids = list[int]


def text_of(ids: Sequence[int]) -> str:
    """The text whose tokens these are: word i is "wi"."""
    return " ".join(f"w{i}" for i in ids)


def draw(benchmark: str, work: Mapping[str, Any], vocab_size: int, seed: int = 0) -> dict[str, Any]:
    """The input of a case, ready for JSON; the same arguments give the same work.

    Returns:
        sampling, ppo: {"prompts": [ids]}; reward: {"warmup", "items"}: lists of [prompt, chosen, rejected];
        sft: the same of [prompt, response].

    Raises:
        ValueError: if the benchmark has no work to draw.
    """
    rng = np.random.default_rng([seed, len(benchmark)])
    if benchmark == "sampling":
        return {"prompts": prompts(rng, work["prompts"], work["lengths"], vocab_size)}
    if benchmark == "ppo":
        count = work["batch"] * (work["warmup"] + work["updates"])
        return {"prompts": prompts(rng, count, work["lengths"], vocab_size)}
    if benchmark in ("reward", "sft"):
        answers = {"reward": 2, "sft": 1}[benchmark]
        return {
            "warmup": _examples(rng, work["minibatch"], work, answers, vocab_size),
            "items": _examples(rng, work["items"], work, answers, vocab_size),
        }
    raise ValueError(f"no work to draw for {benchmark!r}")


def prompts(rng: np.random.Generator, count: int, lengths: Mapping[str, int], vocab_size: int) -> list[Ids]:
    """`count` prompts of shortest + (longest - shortest) * Beta(1, b) tokens, b such that the mean is `mean`."""
    span = lengths["longest"] - lengths["shortest"]
    b = span / (lengths["mean"] - lengths["shortest"]) - 1
    sizes = lengths["shortest"] + np.round(span * rng.beta(1, b, count)).astype(int)
    return [_words(rng, size, vocab_size) for size in sizes]


def response_lengths(rng: np.random.Generator, count: int, response: Mapping[str, float]) -> list[int]:
    """Log-normal lengths of this mean before they are cut to 4 .. `longest`."""
    mu = math.log(response["mean"]) - response["sigma"] ** 2 / 2
    sizes = np.exp(rng.normal(mu, response["sigma"], count))
    return np.clip(np.round(sizes), 4, response["longest"]).astype(int).tolist()


def _examples(
    rng: np.random.Generator, count: int, work: Mapping[str, Any], answers: int, vocab_size: int
) -> list[list[Ids]]:
    first = prompts(rng, count, work["lengths"], vocab_size)
    columns = [
        [_words(rng, size, vocab_size) for size in response_lengths(rng, count, work["response"])]
        for _ in range(answers)
    ]
    return [list(row) for row in zip(first, *columns, strict=True)]


def _words(rng: np.random.Generator, size: int, vocab_size: int) -> Ids:
    return rng.integers(len(CONTROL_TOKENS), vocab_size, int(size)).tolist()
