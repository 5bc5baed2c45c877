"""Tiny models: a Llama and a GPT-2 with absolute positions, both with a word tokenizer."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.models.policy import Policy, save_policy
from rlp_engine.models.scratch import build_scratch, build_tokenizer

torch.set_num_threads(1)

TEXTS = ["what is the capital of france ?", "it is paris .", "name two colours .", "red and blue , i think ."]
SCRATCH = ScratchConfig(
    hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, init_std=0.2, tokenizer="word", vocab_size=64
)
MODEL = ModelConfig(init="scratch", scratch=SCRATCH)


def llama() -> Policy:
    return build_scratch(MODEL, TEXTS, seed=7)


def gpt2() -> Policy:
    """Absolute positions, dropout in its config, Conv1D instead of linear layers."""
    tokenizer = build_tokenizer(SCRATCH, TEXTS)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(7)
    return Policy(GPT2LMHeadModel(config).eval(), tokenizer)


@pytest.fixture
def policy():
    return llama()


@pytest.fixture(params=[llama, gpt2], ids=["llama", "gpt2"])
def policy_folder(request, tmp_path):
    """A saved policy of either architecture."""
    save_policy(request.param(), tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def llama_folder(policy, tmp_path):
    save_policy(policy, tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def sequences(policy):
    """Token ids of texts of different lengths."""
    texts = [*TEXTS, "paris", "what is red and blue and red and blue and red ?"]
    return [policy.tokenizer(text)["input_ids"] for text in texts]
