"""What a decoder holds, counted from its widths. No torch: plain numbers in, bytes out.

Letters: N tokens of a forward pass (rows x length, padding included), D hidden width, A width of all query heads,
K width of all key-value heads, I width of the MLP, V vocabulary, w bytes of a number of the model.

The counts are those of transformers' Llama and its kin with scaled dot-product attention: what autograd keeps for
the backward pass was read off with `torch.autograd.graph.saved_tensors_hooks` and is tested that way. An eager
attention keeps its (heads x length x length) scores besides; a mixture of experts keeps less than is said here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FLOAT32 = 4
TRAINING_NUMBERS = 3  # per trained number, in float32: its gradient and AdamW's two moments
LOGPROB_CHUNK = 8192  # rlp_engine/generation/logprobs.py:CHUNK, which imports torch; a test holds them equal
CACHE_RECENT = 32  # rlp_engine/generation/cache.py:RECENT; as above
PAIR_WORTH = 0.9  # rlp_engine/models/pairs.py:WORTH, which imports torch; a test holds them equal
SAMPLING_COPIES = 3  # of the float32 logits of a step: the scaled ones, the probabilities, and what looks for the token


@dataclass(frozen=True)
class Tensors:
    """So many bytes in blocks of like size: the C library treats small and large blocks differently."""

    bytes: int
    block: int

    @classmethod
    def of(cls, count: float, block: int) -> Tensors:
        """`count` blocks."""
        return cls(round(count * block), block)


@dataclass(frozen=True)
class ModelShape:
    """A model as its config describes it."""

    parameters: int  # with its language model head; tied embeddings count once
    backbone: int  # parameters without a head
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    is_gated: bool  # down(act(gate(x)) * up(x)), and RMSNorm; else down(act(up(x))), and LayerNorm
    linears: tuple[tuple[str, int, int], ...] = ()  # of the backbone: name, width in, width out

    @property
    def classifier(self) -> int:
        """Parameters of a reward model: a linear head of one label without bias."""
        return self.backbone + self.hidden

    @property
    def value(self) -> int:
        """Parameters of a value model: the head has a bias."""
        return self.backbone + self.hidden + 1

    def lora(self, rank: int, targets: Sequence[str]) -> int:
        """Numbers of the adapters: A (rank x in) and B (out x rank) in each linear layer that `targets` names."""
        return sum(rank * (width_in + width_out) for _, width_in, width_out in self.targeted(targets))

    def targeted(self, targets: Sequence[str]) -> list[tuple[str, int, int]]:
        """The linear layers of the backbone that get an adapter."""
        if list(targets) == ["all-linear"]:
            return list(self.linears)
        return [layer for layer in self.linears if any(layer[0] == t or layer[0].endswith(f".{t}") for t in targets)]


def layer_saved(shape: ModelShape, tokens: int, width: int) -> list[Tensors]:
    """What one layer keeps for the backward pass.

    Attention: queries, keys, values and its output. A gated MLP: gate, up, act(gate) and their product; GPT-2's: up,
    three inner results of its tanh GELU and the output. RMSNorm, twice: its input in float32, the normalised input,
    the output; LayerNorm: input and output.
    """
    query, key = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    attention = [Tensors.of(2, tokens * query * width), Tensors.of(2, tokens * key * width)]
    attention.append(Tensors.of(1, tokens * shape.heads * FLOAT32))  # log-sum-exp
    mlp = Tensors.of(4 if shape.is_gated else 5, tokens * shape.intermediate * width)
    wide = tokens * shape.hidden
    norms = Tensors.of(4, wide * width)
    inputs = Tensors.of(2, wide * FLOAT32) if shape.is_gated else Tensors(0, wide * width)
    return [*attention, mlp, norms, inputs]


def training_saved(shape: ModelShape, tokens: int, width: int, *, checkpointing: bool) -> list[Tensors]:
    """What the backbone keeps: all layers; with gradient checkpointing every layer's input and one whole layer."""
    wide = tokens * shape.hidden * width
    last_norm = [Tensors.of(1, tokens * shape.hidden * FLOAT32), Tensors.of(2, wide)]
    one = layer_saved(shape, tokens, width)
    if checkpointing:
        return [*one, Tensors.of(shape.layers, wide), *last_norm]
    return [Tensors(part.bytes * shape.layers, part.block) for part in one] + last_norm


def forward_held(shape: ModelShape, tokens: int, width: int) -> tuple[list[Tensors], list[Tensors]]:
    """The most that a forward pass without gradients holds at a time, in its attention and in its MLP.

    Attention, while queries are rotated: residual and normalised input; queries, keys, values; the two products and
    the rotated copy. MLP: act(gate), up and product beside the residual and the normalised input.
    """
    query, key = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    wide = Tensors.of(2, tokens * shape.hidden * width)
    attention = [wide, Tensors.of(4, tokens * query * width), Tensors.of(2, tokens * key * width)]
    return attention, [Tensors.of(3 if shape.is_gated else 4, tokens * shape.intermediate * width), wide]


def logprob_held(shape: ModelShape, tokens: int, width: int, *, gradients: bool) -> list[Tensors]:
    """Logits of one chunk of response tokens in the model's dtype, and float32 numbers of their size: the log-sum-exp's
    inner result, in the backward pass the gradient. Below float32 also a float32 copy, and the gradient cast back.

    Assumes response_logprobs: no more than LOGPROB_CHUNK tokens have logits, at temperature 1.
    """
    count = min(tokens, LOGPROB_CHUNK) * shape.vocabulary
    is_low = width != FLOAT32
    own = Tensors.of(2 if gradients and is_low else 1, count * width)
    return [own, Tensors.of(2 if is_low else 1, count * FLOAT32)]


def rows_held(shape: ModelShape, rows: int, own_prompt: int, new_tokens: int, width: int) -> list[Tensors]:
    """Keys and values of all layers in the buffers that rows are decoded in: each row's columns, and the newest ones
    that wait to be moved there.

    Args:
        own_prompt: columns for the prompt; 0 where the answers of a prompt share it (`prompts_held`).
    """
    column = shape.layers * rows * shape.key_value_heads * shape.head_size * width
    settled = own_prompt + new_tokens // CACHE_RECENT * CACHE_RECENT
    return [Tensors.of(2, settled * column), Tensors.of(2, min(CACHE_RECENT, new_tokens) * column)]


def prompts_held(shape: ModelShape, prompts: int, length: int, width: int) -> list[Tensors]:
    """Keys and values of `prompts` as a prefill leaves them, layer by layer."""
    block = prompts * length * shape.key_value_heads * shape.head_size * width
    return [Tensors.of(2 * shape.layers, block)]


def sampling_held(shape: ModelShape, rows: int, width: int) -> list[Tensors]:
    """Logits of one step and what choosing a token makes of them."""
    return [
        Tensors.of(1, rows * shape.vocabulary * width),
        Tensors.of(SAMPLING_COPIES, rows * shape.vocabulary * FLOAT32),
    ]


def pair_tokens(prompt: int, answer: int) -> int:
    """Tokens of two answers to one prompt in a reward model's training: the prompt once where that spares enough."""
    packed, separate = prompt + 2 * answer, 2 * (prompt + answer)
    return packed if packed < PAIR_WORTH * separate else separate


def total(parts: Iterable[Tensors]) -> int:
    return sum(part.bytes for part in parts)


@dataclass(frozen=True)
class Models:
    """The shapes that a run's stages load."""

    policy: ModelShape
    reward: ModelShape
    judge: ModelShape | None = None
    annotator: ModelShape | None = None
    equivalence: ModelShape | None = None
