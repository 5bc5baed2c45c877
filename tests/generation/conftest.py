"""Tiny causal language models of three kinds, with random weights large enough to have opinions."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

torch.set_num_threads(1)

VOCABULARY, EOS, PAD = 40, 1, 0
WIDTHS = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON = {
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "initializer_range": 0.25,
}


def llama():
    return LlamaForCausalLM(LlamaConfig(**COMMON, **WIDTHS, num_key_value_heads=2, max_position_embeddings=64))


def gpt2():
    """Absolute positions: wrong ones after padding would show."""
    return GPT2LMHeadModel(GPT2Config(**COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def mistral():
    """A sliding window shorter than the prompts: another kind of cache layer."""
    return MistralForCausalLM(MistralConfig(**COMMON, **WIDTHS, num_key_value_heads=2, sliding_window=6))


@pytest.fixture(params=[llama, gpt2, mistral], ids=lambda build: build.__name__)
def model(request):
    torch.manual_seed(11)
    return request.param().eval()


@pytest.fixture
def one_model():
    torch.manual_seed(11)
    return llama().eval()


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in (3, 9, 5, 9, 1, 7)]
