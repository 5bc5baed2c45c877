import subprocess
import sys

import pytest
import torch

from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.errors import ConfigError, DataError
from rlp_engine.models.policy import load_policy, save_policy
from rlp_engine.models.scratch import build_scratch, build_tokenizer

TEXTS = ["the cat sat on the mat .", "a dog , a cat and a bird !", "größer als Ünïcode 日本"]


def config(tokenizer="word", **values):
    scratch = ScratchConfig(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, tokenizer=tokenizer, vocab_size=320, **values
    )
    return ModelConfig(init="scratch", scratch=scratch)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(kind):
    torch.manual_seed(0)
    first = build_scratch(config(kind), TEXTS, seed=5)
    torch.manual_seed(1)
    again = build_scratch(config(kind), iter(TEXTS), seed=5)
    other = build_scratch(config(kind), TEXTS, seed=6)
    weights = [p.model.get_input_embeddings().weight for p in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.tokenizer.get_vocab() == again.tokenizer.get_vocab()


def test_building_leaves_the_callers_random_state():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_scratch(config(), TEXTS, seed=5)
    assert torch.equal(torch.rand(1), expected)


BYTES_OF_TOKENIZERS = """
from rlp_engine.config.sections.model import ScratchConfig
from rlp_engine.models.scratch import build_tokenizer
texts = [f"{a} {b} {a}{b}" for a in ("aa", "ab", "ba", "bb", "cd", "dc") for b in ("xx", "xy", "yx", "yy")]
for kind in ("word", "bpe"):
    print(build_tokenizer(ScratchConfig(tokenizer=kind, vocab_size=290), texts).backend_tokenizer.to_str())
"""


def test_another_process_trains_the_same_tokenizers():
    # Ties in the counts must not be broken by a hash map's order, which differs between processes.
    command = [sys.executable, "-c", BYTES_OF_TOKENIZERS]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (run.communicate()[0] for run in runs)
    assert len(first) > 1000
    assert first == second


def test_words_are_what_stands_between_spaces():
    tokenizer = build_tokenizer(config().scratch, TEXTS)
    ids = tokenizer("the dog sat .\nthe zebra !")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "dog", "sat", ".", "the", "[UNK]", "!"]
    assert tokenizer.decode(tokenizer("a bird sat .")["input_ids"]) == "a bird sat ."


@pytest.mark.parametrize("text", ["  two  spaces\n\tand tabs", "emoji 🦜 é", "größer"])
def test_byte_pairs_spell_any_text(text):
    tokenizer = build_tokenizer(config("bpe").scratch, TEXTS)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_pad_eos_and_unknown_are_three_tokens_and_the_model_has_a_row_for_each(kind):
    policy = build_scratch(config(kind), TEXTS, seed=5)
    tokenizer = policy.tokenizer
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    assert policy.eos_ids == (tokenizer.eos_token_id,)
    assert policy.model.config.vocab_size == len(tokenizer)
    assert tokenizer.bos_token_id is None


def test_the_vocabulary_keeps_to_its_size():
    tokenizer = build_tokenizer(ScratchConfig(tokenizer="word", vocab_size=6), TEXTS)
    assert len(tokenizer) == 6
    assert "a" in tokenizer.get_vocab()  # the most frequent words stay


def test_initial_weights_have_the_configured_spread():
    model = build_scratch(config(init_std=0.08), TEXTS, seed=5).model
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.08, rel=0.2)


def test_a_saved_scratch_model_loads_as_any_other(tmp_path):
    policy = build_scratch(config("bpe"), TEXTS, seed=5)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path, ModelConfig())
    text = "größer 🦜 cat"
    ids = loaded.tokenizer(text)["input_ids"]
    assert ids == policy.tokenizer(text)["input_ids"]
    assert loaded.tokenizer.decode(ids) == text
    with torch.no_grad():
        expected = policy.model(torch.tensor([ids])).logits
        assert torch.equal(loaded.model(torch.tensor([ids])).logits, expected)


def test_widths_that_do_not_divide_are_named():
    scratch = ScratchConfig(hidden_size=30, num_heads=4, num_kv_heads=3)
    with pytest.raises(ConfigError) as error:
        build_scratch(ModelConfig(init="scratch", scratch=scratch), TEXTS, seed=0)
    assert "hidden_size 30" in error.value.found
    assert "num_kv_heads 3" in error.value.found


def test_a_word_tokenizer_needs_words():
    with pytest.raises(DataError, match="single word"):
        build_scratch(config(), ["", "  "], seed=0)
