"""What every function of this package asks of its tensors: equal shapes, and enough digits."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """bfloat16 and float16 become float32; float32 and float64 stay as they are.

    A bfloat16 has 8 bits: log-probabilities of -300 would be 2 nats apart, and their difference is
    what PPO is about.
    """
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def require_same_shape(ndim: int, **tensors: Tensor) -> None:
    """All tensors have `ndim` axes and the same shape.

    Raises:
        ValueError: naming every tensor and its shape. Without this (B,) against (B, 1) broadcasts
            to (B, B), and training goes on with a loss that means something else.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != ndim for shape in shapes.values()):
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"want tensors of one shape with {ndim} axes, got {told}")


def require_bool(**masks: Tensor) -> None:
    """Masks are bool: ~ and indexing mean something else on 0/1 integers.

    Raises:
        ValueError: naming the mask and its dtype.
    """
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ValueError(f"{name} must be bool (True = counts), got {mask.dtype}")
