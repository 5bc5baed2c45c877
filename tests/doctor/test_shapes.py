"""Counts by hand, and against real models of the same config."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from rlp_engine.config.sections.model import LoraConfig
from rlp_engine.data.batching import pad
from rlp_engine.doctor import memory, parts, shapes
from rlp_engine.doctor.architecture import shape_of
from rlp_engine.generation import cache, logprobs, native
from rlp_engine.models import pairs
from rlp_engine.models.lora import add_lora
from rlp_engine.stages import collect, evaluate_policies
from rlp_engine.training import rollout

LLAMA = {"vocab_size": 10, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
WIDE = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "untied": LlamaConfig(**LLAMA, num_key_value_heads=1, tie_word_embeddings=False),
    "tied": LlamaConfig(**LLAMA, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2, with biases": Qwen2Config(**LLAMA, num_key_value_heads=2),
    "gpt2": GPT2Config(vocab_size=11, n_embd=8, n_layer=2, n_head=2, n_positions=16),
}


def test_parameters_of_a_llama_worked_by_hand():
    # embeddings 10 x 4; q and o 4 x 4; k and v 4 x 2 (one head of two); gate, up, down 4 x 8; norms 3 x 4
    backbone = 40 + 2 * 16 + 2 * 8 + 3 * 32 + 3 * 4
    untied = shape_of(CONFIGS["untied"], is_policy=True)
    assert (untied.parameters, untied.backbone) == (backbone + 40, backbone)
    assert (untied.classifier, untied.value) == (backbone + 4, backbone + 5)
    assert (untied.head_size, untied.key_value_heads, untied.is_gated) == (2, 1, True)
    assert shape_of(CONFIGS["tied"], is_policy=True).parameters == backbone
    # rank 2 in q (4 -> 4) and v (4 -> 2): 2 x 8 + 2 x 6
    assert untied.lora(2, ["q_proj", "v_proj"]) == 28


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "c_attn"]], ids=["all", "some"])
def test_parameters_and_adapters_are_those_of_the_real_model(config, targets):
    shape = shape_of(config, is_policy=True)
    model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.backbone == sum(p.numel() for p in model.base_model.parameters())
    add_lora(model, LoraConfig(rank=3, target_modules=targets))
    assert shape.lora(3, targets) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        (LlamaConfig(**WIDE, intermediate_size=192), torch.float32),
        (LlamaConfig(**WIDE, intermediate_size=192), torch.bfloat16),
        (GPT2Config(vocab_size=64, n_embd=64, n_layer=3, n_head=4, n_positions=64), torch.float32),
    ],
    ids=["llama", "llama bfloat16", "gpt2"],
)
def test_what_is_kept_for_the_backward_pass_is_what_autograd_keeps(config, dtype):
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0  # as load_config has it
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).base_model.train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids_BL, _ = pad([list(range(40))] * 4, 0, "right")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids_BL, use_cache=False).last_hidden_state.sum()
    measured = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
    shape = shape_of(config, is_policy=True)
    width = torch.finfo(dtype).bits // 8
    reckoned = shapes.total(shapes.training_saved(shape, ids_BL.numel(), width, checkpointing=False))
    assert reckoned == pytest.approx(measured, rel=0.04)  # the rest: one number a token of every norm, rotary tables


def test_gradient_checkpointing_keeps_one_layer_and_the_others_inputs():
    shape = shape_of(LlamaConfig(**WIDE, intermediate_size=192), is_policy=True)
    one, all_of_them = (
        shapes.total(shapes.training_saved(dataclasses.replace(shape, layers=n), 160, 4, checkpointing=False))
        for n in (1, 3)
    )
    checkpointed = shapes.total(shapes.training_saved(shape, 160, 4, checkpointing=True))
    assert checkpointed == one + 3 * 160 * 64 * 4 < all_of_them


def test_cache_and_logits_worked_by_hand():
    shape = shape_of(CONFIGS["untied"], is_policy=True)
    # 5 rows, one head of 2, keys and values of one layer: 3 columns of the prompt, 64 of the answer, 32 newest ones
    assert shapes.total(shapes.rows_held(shape, 5, 3, 70, 4)) == 2 * 5 * (3 + 64 + 32) * 2 * 4
    assert shapes.total(shapes.prompts_held(shape, 5, 3, 4)) == 2 * 5 * 3 * 2 * 4
    # 6 tokens x 10 words: logits and their gradient in float32; in bfloat16 two of 2 bytes and two of 4
    assert shapes.total(shapes.logprob_held(shape, 6, 4, gradients=True)) == 60 * (4 + 4)
    assert shapes.total(shapes.logprob_held(shape, 6, 2, gradients=True)) == 60 * (2 + 2 + 4 + 4)
    assert shapes.total(shapes.logprob_held(shape, 10**9, 4, gradients=False)) == 8192 * 10 * 8
    assert shapes.pair_tokens(52, 64) == 52 + 2 * 64
    assert shapes.pair_tokens(4, 64) == 2 * 68  # 132 tokens are more than 0.9 x 136


def test_numbers_that_are_written_twice_because_their_owner_imports_torch():
    assert shapes.LOGPROB_CHUNK == logprobs.CHUNK
    assert shapes.PAIR_WORTH == pairs.WORTH
    assert shapes.CACHE_RECENT == cache.RECENT
    assert parts.REFILL_SHARE == native.REFILL_SHARE
    assert memory.FORWARD_FACTOR == rollout.FORWARD_FACTOR
    assert memory.DRAWS_AT_ONCE == collect.SHARD_PROMPTS == evaluate_policies.SHARD_PROMPTS


def test_a_forward_pass_worked_by_hand():
    attention, mlp = shapes.forward_held(shape_of(CONFIGS["untied"], is_policy=True), 5, 4)
    # 5 tokens: two of width 4; four of the queries' width 4, two of the keys' width 2; three of the MLP's width 8
    assert shapes.total(attention) == 5 * (2 * 4 + 4 * 4 + 2 * 2) * 4
    assert shapes.total(mlp) == 5 * (3 * 8 + 2 * 4) * 4
