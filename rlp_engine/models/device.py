"""Where tensors live, and how many CPU threads torch may take."""

from __future__ import annotations

import torch

from rlp_engine.config.sections.model import ComputeConfig
from rlp_engine.errors import ConfigError


def device_of(compute: ComputeConfig) -> torch.device:
    """The device of this process; `auto` is CUDA when there is one.

    Raises:
        ConfigError: if CUDA is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if compute.device == "cuda" and not has_cuda:
        raise ConfigError(
            "compute.device is 'cuda', but torch sees no CUDA device",
            found=f"torch {torch.__version__}",
            mend="--set compute.device=auto, or install a torch built for your GPU and its driver",
        )
    use_cuda = has_cuda and compute.device != "cpu"
    return torch.device("cuda" if use_cuda else "cpu")


def device_name(device: torch.device) -> str:
    """Two devices of one name compute the same bits: `NVIDIA H100 80GB HBM3`, `cpu (AVX2)`.

    On a CPU torch chooses its kernels by the instructions that there are, and rounds as they do.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.backends.cpu.get_cpu_capability()})"


def apply_threads(compute: ComputeConfig) -> None:
    """Set torch's CPU threads; 0 leaves torch's own choice."""
    if compute.cpu_threads:
        torch.set_num_threads(compute.cpu_threads)
