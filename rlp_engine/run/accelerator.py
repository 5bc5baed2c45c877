"""The accelerator of this process, where a stage has used one, without importing torch."""

from __future__ import annotations

import sys
from typing import Any


def cuda_in_use() -> Any | None:
    """torch.cuda if a stage of this process has used it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def reset_device_peak() -> None:
    """Start measuring the accelerator's memory anew; blocks that torch keeps for later go back to the driver."""
    if cuda := cuda_in_use():
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()


def device_peak() -> int | None:
    """Most bytes of tensors on the accelerator since the last reset; None where none is used."""
    cuda = cuda_in_use()
    return cuda.max_memory_allocated() if cuda else None
