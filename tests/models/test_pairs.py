import pytest
import torch
from transformers import (
    AutoModel,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from rlp_engine.models.pairs import can_pack, is_worth_packing, pack_pairs, pair_length, pair_states, shared_prefix

COMMON = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDTHS = COMMON | {"intermediate_size": 48, "initializer_range": 0.3}
PREFIX = [5, 6, 7, 8, 9, 10, 11]
FIRST = [[*PREFIX, 12, 13], [3, 4, 5, 20], [9, 2]]
SECOND = [[*PREFIX, 14], [3, 4, 21, 22, 23, 24], [9, 2, 3]]

PACKED = {
    "llama": LlamaConfig(**WIDTHS, num_key_value_heads=2),
    "qwen3": Qwen3Config(**WIDTHS, num_key_value_heads=2, head_dim=8),
    "gpt-neox": GPTNeoXConfig(**WIDTHS),
    "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3),
}
NOT_PACKED = {
    "sliding window": MistralConfig(**WIDTHS, num_key_value_heads=2, sliding_window=4),
    "alibi": BloomConfig(**(COMMON | {"n_layer": 2, "n_head": 4}), initializer_range=0.3),
    "alibi with positions": FalconConfig(**COMMON, alibi=True, initializer_range=0.3),
}


def build(config, attention=None):
    torch.manual_seed(3)
    return AutoModel.from_config(config, attn_implementation=attention).eval()


def separate(backbone, sequence):
    return backbone(input_ids=torch.tensor([sequence])).last_hidden_state[0, -1]


def test_a_pair_in_one_row():
    rows = pack_pairs([[5, 6, 7]], [[5, 8]], 0, torch.float32)
    assert rows.ids_PL.tolist() == [[5, 6, 7, 8]]
    assert rows.positions_PL.tolist() == [[0, 1, 2, 1]]
    assert rows.last_P2.tolist() == [[2, 3]]
    sees = (rows.mask_P1LL[0, 0] == 0).tolist()
    assert sees == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, False, False, True],
    ]


@pytest.mark.parametrize(
    ("first", "second", "prefix"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2], 1), ([1, 2], [1, 2, 3], 1), ([1], [1, 2], 0), ([4, 1], [5, 1], 0)],
)
def test_each_sequence_keeps_a_token_of_its_own(first, second, prefix):
    assert shared_prefix(first, second) == prefix
    assert pair_length(first, second) == len(first) + len(second) - prefix


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PACKED)
def test_the_states_and_gradients_are_those_of_separate_rows(name, attention):
    backbone = build(PACKED[name], attention)
    assert can_pack(backbone, 12)
    weights = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    packed = pair_states(backbone, pack_pairs(FIRST, SECOND, 0, torch.float32))
    (packed * weights).sum().backward()
    ours = {key: parameter.grad.clone() for key, parameter in backbone.named_parameters() if parameter.grad is not None}
    backbone.zero_grad()
    expected = torch.stack([separate(backbone, sequence) for sequence in [*FIRST, *SECOND]])
    (expected * weights).sum().backward()
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-5)
    assert ours
    for key, parameter in backbone.named_parameters():
        if key in ours:
            torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NOT_PACKED)
def test_a_model_to_which_columns_or_windows_matter_is_not_packed(name):
    assert not can_pack(build(NOT_PACKED[name]), 12)


def test_a_row_beyond_the_models_positions_is_not_packed():
    backbone = build(LlamaConfig(**WIDTHS, max_position_embeddings=16))
    assert can_pack(backbone, 16)
    assert not can_pack(backbone, 17)


def test_packing_has_to_spare_a_tenth_of_the_tokens():
    assert is_worth_packing([[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 6]])  # 6 instead of 10
    assert not is_worth_packing([[1, 2, 3, 4, 5]], [[1, 9, 3, 4, 6]])  # 9 instead of 10
