"""Memory bandwidth and matrix speed of this machine, as JSON: `python -m benchmarks.speed.machine DEVICE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch

from benchmarks.speed.clock import Clock, one_thread


def bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a large copy."""
    size = 2**31 if device == "cuda" else 2**28
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(device, lambda: target.copy_(source))


def flops(device: str) -> float:
    """Floating-point operations a second of a large square product, bf16 on CUDA and fp32 on a CPU."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a = torch.randn((size, size), device=device).to(dtype)
    return 2 * size**3 / _seconds(device, lambda: a @ a)


def _seconds(device: str, work: Callable[[], object], repeats: int = 5) -> float:
    """Mean seconds of one call after a warm-up."""
    work()
    clock = Clock(on_cuda=device == "cuda")
    with clock.phase("all"):
        for _ in range(repeats):
            work()
    return clock.seconds("all") / repeats


if __name__ == "__main__":
    one_thread()
    print(json.dumps({"bandwidth": bandwidth(sys.argv[1]), "flops": flops(sys.argv[1])}))  # noqa: T201
