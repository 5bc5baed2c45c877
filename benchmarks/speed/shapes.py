"""What is measured: model shapes, how much work a case holds, and what issue 4 asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A Llama of random weights, embeddings not tied."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int

    @property
    def layer_parameters(self) -> int:
        """Attention, MLP and the two norms of one layer."""
        kv_width = self.hidden_size * self.num_kv_heads // self.num_heads
        attention = 2 * self.hidden_size**2 + 2 * self.hidden_size * kv_width
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters of the causal language model."""
        return (
            2 * self.vocab_size * self.hidden_size + self.num_layers * self.layer_parameters + self.hidden_size
        )  # the final norm

    @property
    def matmul_parameters(self) -> int:
        """Those that every token is multiplied with: all but the input embeddings."""
        return self.parameters - self.vocab_size * self.hidden_size

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"parameters": self.parameters}


SHAPES = {
    "tiny": Shape(2048, 128, 256, 4, 4, 4),  # 1.18M
    "small": Shape(8192, 512, 1280, 6, 8, 8),  # 26.5M
    "1b": Shape(32000, 2048, 5632, 22, 32, 4),  # 1.10B
    "7b": Shape(32000, 4096, 11008, 32, 32, 32),  # 6.74B
}
CPU_SIZES, GPU_SIZES = ("tiny", "small"), ("1b", "7b")
ASKED_SHARES = {("sampling", "1b"): 0.5, ("sampling", "7b"): 0.5, ("ppo", "1b"): 0.4}  # of what the machine can give


@dataclass(frozen=True)
class Case:
    """One row of the table: a benchmark at a size, with what both sides do."""

    benchmark: str
    size: str
    name: str
    settings: dict[str, Any]  # the work; the same for both sides
    ours: tuple[Any, ...]  # batch sizes among which each side takes its best
    peer: tuple[Any, ...]
    asked: float | None  # least ratio of rates, ours over the peer's; None = issue 4 asks for no ratio

    @property
    def key(self) -> tuple[str, str]:
        return self.benchmark, self.name


PEERS = {
    "sampling": "transformers generate",
    "ppo": "TRL PPOTrainer",
    "reward": "TRL RewardTrainer",
    "sft": "TRL SFTTrainer",
    "clustering": "naive walk",
}
UNITS = {
    "sampling": "useful tokens",
    "ppo": "answers",
    "reward": "pairs",
    "sft": "real tokens",
    "clustering": "instructions",
}
CPU_PROMPTS = {"shortest": 24, "mean": 48, "longest": 96}  # tokens
GPU_PROMPTS = {"shortest": 128, "mean": 200, "longest": 256}
ANSWERS = {"mean": 90, "sigma": 0.6, "longest": 320}  # tokens of written answers: log-normal
ROWS_OURS, ROWS_PEER = (64, 160, 320), (20, 40, 80, 160, 320)


def cases(benchmark: str, sizes: tuple[str, ...]) -> list[Case]:
    """The cases of a benchmark at these sizes, in the order of the table.

    Raises:
        ValueError: if it is unknown.
    """
    makers = {"sampling": _sampling, "ppo": _ppo, "reward": _reward, "sft": _sft, "clustering": _clustering}
    if benchmark not in makers:
        raise ValueError(f"unknown benchmark {benchmark!r}: {', '.join(makers)}")
    return [case for size in sizes for case in makers[benchmark](size)]


def _sampling(size: str) -> list[Case]:
    if size in GPU_SIZES:
        work = {"prompts": 64, "lengths": GPU_PROMPTS, "answers": 10, "max_new_tokens": 300, "mean_answer": 150}
        return [Case("sampling", size, f"{size}, 64 prompts", work, (320, 640), (80, 160, 320, 640), 4.0)]
    asked = {"tiny": 5.0, "small": 4.0}[size]
    work = {"lengths": CPU_PROMPTS, "answers": 10, "max_new_tokens": 64, "mean_answer": 40}  # 32 when cut at 64
    return [
        Case("sampling", size, f"{size}, {n} prompts", work | {"prompts": n}, ROWS_OURS, ROWS_PEER, asked)
        for n in (32, 128)
    ]


def _ppo(size: str) -> list[Case]:
    cpu = {"lengths": CPU_PROMPTS, "max_new_tokens": 32, "mean_answer": 32, "warmup": 1}
    gpu = {"lengths": GPU_PROMPTS, "max_new_tokens": 300, "mean_answer": 300, "warmup": 1, "updates": 1}
    if size == "7b":  # four full models of 7B and two optimisers fit on no single GPU
        return []
    work, batches, asked = {
        "tiny": (cpu | {"batch": 64, "epochs": 4, "updates": 3}, (16, 32, 64), 2.2),
        "small": (cpu | {"batch": 16, "epochs": 2, "updates": 2}, (4, 8, 16), 1.8),
        "1b": (gpu | {"batch": 128, "epochs": 2}, (8, 16, 32), None),
    }[size]
    return [Case("ppo", size, size, work, batches, batches, asked)]


def _reward(size: str) -> list[Case]:
    items = {"tiny": 256, "small": 64}.get(size, 128)
    work = {"lengths": CPU_PROMPTS, "response": ANSWERS, "items": items, "minibatch": 32}
    asked = {"tiny": 1.5, "small": 1.2}.get(size)
    return [Case("reward", size, size, work, (4, 8, 16, 32), (4, 8, 16, 32), asked)]


def _sft(size: str) -> list[Case]:
    """Twice: the peer with minibatches of random examples, as ours are, and with the order or packing it likes best."""
    items = {"tiny": 256, "small": 64}.get(size, 128)
    work = {"lengths": CPU_PROMPTS, "response": ANSWERS, "items": items, "minibatch": 32, "max_length": 512}
    ours = (4, 8, 16, 32)
    asked = 1.3 if size in CPU_SIZES else None
    random = ("padded 4", "padded 8", "padded 16", "padded 32", "padding-free 4")
    chosen = ("by length 4", "by length 8", "by length 16", "by length 32", "packed 1", "packed 2")
    return [
        Case("sft", size, f"{size}, random minibatches", work, ours, random, asked),
        Case("sft", size, f"{size}, peer sorts or packs", work, ours, chosen, asked),
    ]


ENCODERS = {"tiny": "bert", "small": "deberta-v2"}  # MiniLM's shape and DeBERTa-v2's, 384 wide, 6 layers


def _clustering(size: str) -> list[Case]:
    """Both encoders have the same width: the sizes name the cheaper and the dearer one."""
    if size in GPU_SIZES:
        return []
    work = {"instructions": 50, "outputs": 10, "mean_tokens": 92, "encoder": ENCODERS[size]}
    return [Case("clustering", size, f"{ENCODERS[size]} 384x6", work, (8, 32, 64), (1,), 1 / 0.55)]
