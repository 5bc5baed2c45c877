"""Tiny causal language models of many kinds, with random weights large enough to have opinions."""

from __future__ import annotations

from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY, EOS, PAD = 40, 1, 0
WIDTHS = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON = {
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "initializer_range": 0.25,
}
GROUPED = {**COMMON, **WIDTHS, "num_key_value_heads": 2, "max_position_embeddings": 64}


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**GROUPED | changes))


def gpt2():
    """Absolute positions: wrong ones after padding would show."""
    return GPT2LMHeadModel(GPT2Config(**COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def gpt_neox():
    return GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON, **WIDTHS, max_position_embeddings=64))


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(**GROUPED))


def qwen3():
    return Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8))


def mistral():
    """A sliding window shorter than the prompts: another kind of cache layer."""
    return MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=6))


def mistral_without_window():
    return MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=None))


def gemma2_soft_cap():
    """Every layer looks at every token, and scores are capped."""
    config = Gemma2Config(**GROUPED, head_dim=8, layer_types=["full_attention"] * 2, attn_logit_softcapping=2.0)
    return Gemma2ForCausalLM(config)


def bloom():
    """Positions are a bias on the scores, and attention is its own."""
    return BloomForCausalLM(BloomConfig(**COMMON, hidden_size=32, n_layer=2, n_head=4))


def mamba():
    """A state instead of keys and values."""
    return MambaForCausalLM(MambaConfig(**COMMON, hidden_size=32, num_hidden_layers=2, state_size=4, time_step_rank=4))
