"""The models of a case: random weights whose answers end, written once and read by both sides.

python -m benchmarks.speed.build FOLDER SIZE MEAN_ANSWER DEVICE DTYPE
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.speed.shapes import SHAPES, Shape
from benchmarks.speed.workload import CONTROL_TOKENS, text_of

PAD_ID, EOS_ID, UNKNOWN_ID = range(3)
NEVER = -60.0  # logit of control tokens that no answer shall hold
POSITIONS = 1024


def build_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """One token a word "wi" of id i, so that texts have a known length on both sides."""
    words = [*CONTROL_TOKENS, *(text_of([i]) for i in range(len(CONTROL_TOKENS), vocab_size))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]", model_max_length=POSITIONS
    )


def config_of(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )


@torch.no_grad()
def build_policy(
    shape: Shape, mean_answer: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> LlamaForCausalLM:
    """A policy that ends its answer at every token with a probability near 1 / mean_answer.

    Dimension 0 of the residual stream is made a constant: every embedding holds 1 there and no layer writes to
    it. The head's EOS row reads that dimension alone, so that the logit of EOS is nearly the same everywhere.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        model = LlamaForCausalLM(config_of(shape)).to(dtype).eval()
    model.model.embed_tokens.weight.normal_()
    model.model.embed_tokens.weight[:, 0] = 1.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    head = model.lm_head.weight
    head[: UNKNOWN_ID + 1] = 0.0
    head[[PAD_ID, UNKNOWN_ID], 0] = NEVER
    head[EOS_ID, 0] = _eos_weight(model, shape, mean_answer)
    return model


def _eos_weight(model: LlamaForCausalLM, shape: Shape, mean_answer: int) -> float:
    """The weight at which P(EOS) is 1 / mean_answer on average over random tokens (bisection)."""
    generator = torch.Generator().manual_seed(1)
    ids_BL = torch.randint(UNKNOWN_ID + 1, shape.vocab_size, (8, 32), generator=generator).to(model.device)
    hidden_BLD = model.model(ids_BL).last_hidden_state
    rest_BL = model.lm_head(hidden_BLD)[..., UNKNOWN_ID + 1 :].float().logsumexp(-1)
    constant_BL = hidden_BLD[..., 0].float()
    low, high = 0.0, 60.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if float(torch.sigmoid(middle * constant_BL - rest_BL).mean()) < 1 / mean_answer:
            low = middle
        else:
            high = middle
    return low


def eos_probabilities(model: LlamaForCausalLM, ids_BL: Tensor) -> Tensor:
    """(B, L) P(EOS) after each token."""
    with torch.no_grad():
        return model(ids_BL).logits.float().softmax(-1)[..., EOS_ID]


@torch.no_grad()
def build_reward(policy: LlamaForCausalLM, seed: int = 1) -> LlamaForSequenceClassification:
    """A sequence classifier on the policy's backbone, as a reward model starts; its head is new."""
    config = type(policy.config)(**{**policy.config.to_dict(), "num_labels": 1})
    with torch.device("meta"):
        reward = LlamaForSequenceClassification(config)
    reward.model = policy.model
    width = policy.config.hidden_size
    generator = torch.Generator().manual_seed(seed)
    head = (2 * torch.rand((1, width), generator=generator) - 1) / math.sqrt(width)
    reward.score = torch.nn.Linear(width, 1, bias=False)
    reward.score.weight.copy_(head)
    return reward.to(policy.device, policy.dtype).eval()


def save_models(folder: Path, shape: Shape, mean_answer: int, *, device: str, dtype: str) -> None:
    """policy/ and reward/ with their tokenizer, safetensors."""
    policy = build_policy(shape, mean_answer, device=device, dtype=getattr(torch, dtype))
    tokenizer = build_tokenizer(shape.vocab_size)
    for name, model in (("policy", policy), ("reward", build_reward(policy))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


if __name__ == "__main__":
    folder, size, mean_answer, device, dtype = sys.argv[1:]
    save_models(Path(folder), SHAPES[size], int(mean_answer), device=device, dtype=dtype)
