"""How fast machines compute and read memory. What is said of GPUs is their makers' peak, times a share that is assumed.

Peaks are NVIDIA's data sheets', dense (without sparsity): A100 (2021), H100 and H200 SXM, L4, A10G (with float32
accumulation), and its white papers on GA102 (RTX 3090) and AD102 (RTX 4090). float32 is that of the plain units.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlp_engine.doctor.machine import Gpus

FLOP_SHARE = (
    0.45  # of the peak, in forward and backward passes: what well-fed 7B trainers report (Chowdhery et al. 2022)
)
BANDWIDTH_SHARE = 0.60  # of the peak, in decoding
# One thread of the CPU that docs/BENCHMARKS.md measured (AMD EPYC): a large matrix product and a large copy, and the
# shares of them that training (50 to 123%) and sampling (7 to 11%) reached there.
CPU_FLOPS, CPU_FLOP_SHARE = 88e9, 0.7
CPU_BANDWIDTH, CPU_BANDWIDTH_SHARE = 32e9, 0.09


@dataclass(frozen=True)
class Gpu:
    """One kind of accelerator: peaks a second."""

    name: str  # found in what people and nvidia-smi call it
    low: float  # FLOP/s in bfloat16 and float16
    single: float  # FLOP/s in float32
    bandwidth: float  # bytes/s
    least_gib: int = 0  # only cards of at least so much memory


KNOWN = (
    Gpu("A100", 312e12, 19.5e12, 2.039e12, least_gib=60),
    Gpu("A100", 312e12, 19.5e12, 1.555e12),
    Gpu("H100", 989e12, 67e12, 3.35e12),
    Gpu("H200", 989e12, 67e12, 4.8e12),
    Gpu("L4", 121e12, 30.3e12, 0.300e12),
    Gpu("A10G", 70e12, 35e12, 0.600e12),
    Gpu("3090", 71e12, 35.6e12, 0.936e12),
    Gpu("4090", 165e12, 82.6e12, 1.008e12),
)


@dataclass(frozen=True)
class Rates:
    """What one rank is reckoned to do a second."""

    low: float  # FLOP in bfloat16
    single: float  # FLOP in float32
    bandwidth: float  # bytes read in decoding
    basis: str  # where the numbers come from, for people

    def flops(self, width: int) -> float:
        """FLOP a second with numbers of `width` bytes."""
        return self.single if width == 4 else self.low


def gpu_rates(gpus: Gpus) -> Rates | None:
    """None for a GPU that is not in the table."""
    for gpu in KNOWN:
        if gpu.name.casefold() in _words(gpus.name) and gpus.bytes >= gpu.least_gib * 2**30:
            shares = f"{FLOP_SHARE:.0%} of its peak FLOP/s, {BANDWIDTH_SHARE:.0%} of its memory bandwidth"
            return Rates(
                gpu.low * FLOP_SHARE,
                gpu.single * FLOP_SHARE,
                gpu.bandwidth * BANDWIDTH_SHARE,
                f"{gpu.name}: {shares}; both shares are assumed, nothing was measured on it",
            )
    return None


def cpu_rates() -> Rates:
    """One thread."""
    flops = CPU_FLOPS * CPU_FLOP_SHARE
    basis = "one CPU thread as measured for docs/BENCHMARKS.md; another machine is faster or slower"
    return Rates(flops, flops, CPU_BANDWIDTH * CPU_BANDWIDTH_SHARE, basis)


def _words(name: str) -> list[str]:
    """`NVIDIA A100-SXM4-80GB` -> nvidia, a100, sxm4, 80gb."""
    return name.casefold().replace("-", " ").split()
