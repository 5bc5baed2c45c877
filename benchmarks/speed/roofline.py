"""What a machine could give at most, and the share of it that a measurement reached.

Sources: Pope et al. 2022 (arXiv:2211.05102), section 2 (decoding is bound by reading weights and cache);
Chowdhery et al. 2022 (arXiv:2204.02311), appendix B (model FLOP utilisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.speed.shapes import Shape

BACKWARD = 3  # a forward and a backward pass cost three forward passes
TRAINED = {"ppo": 2, "reward": 1, "sft": 1}  # models that the measured phase trains


def decode_bound(shape: Shape, *, rows: int, context: float, bandwidth: float, number_bytes: int) -> float:
    """Most tokens a second when each step reads the weights once and every row's cache.

    Args:
        rows: answers side by side. context: cached tokens a row, on average.
        bandwidth: bytes a second. number_bytes: of one number, 2 for bf16.
    """
    kv_width = shape.hidden_size * shape.num_kv_heads // shape.num_heads
    cache_bytes = 2 * shape.num_layers * kv_width * context * number_bytes
    return rows * bandwidth / (shape.matmul_parameters * number_bytes + rows * cache_bytes)


def utilisation(shape: Shape, *, tokens: float, seconds: float, flops: float, models: int = 1) -> float:
    """Share of `flops` that forward and backward of `models` models over `tokens` real tokens need, 6 N each.

    Attention's own products are left out, so the true share is a little higher.
    """
    return models * BACKWARD * 2 * shape.matmul_parameters * tokens / seconds / flops


def figures(line: Mapping[str, Any], shape: Shape, machine: Mapping[str, float]) -> dict[str, float]:
    """What a measurement says of the machine: roofline_rate and roofline_share of sampling (tokens a second; the
    rows are limited by the answers there are), utilisation of the optimisation in training.

    Args:
        line: with `context` (sampling), or `trained_tokens` (the rest).
        machine: bandwidth and flops, from machine.py.
    """
    if line["benchmark"] == "sampling":
        bound = decode_bound(
            shape,
            rows=min(line["batch"], line["answers"]),
            context=line["context"],
            bandwidth=machine["bandwidth"],
            number_bytes=2 if line["dtype"] == "bfloat16" else 4,
        )
        return {**machine, "roofline_rate": bound, "roofline_share": line["rate"] / bound}
    kind = "wall" if line["device"] == "cuda" else "cpu"
    seconds = line[f"phases_{kind}_seconds"].get("optimise", line[f"{kind}_seconds"])
    share = utilisation(
        shape,
        tokens=line["trained_tokens"],
        seconds=seconds,
        flops=machine["flops"],
        models=TRAINED[line["benchmark"]],
    )
    return {**machine, "utilisation": share}
