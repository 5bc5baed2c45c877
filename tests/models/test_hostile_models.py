"""Model folders that do not hold together, and chat templates that misbehave: one ModelError each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertLMHeadModel

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import ModelError
from rlp_engine.models.policy import load_policy
from rlp_engine.models.reward import load_reward


def test_a_tokenizer_larger_than_the_embedding_is_an_error(llama_folder, tmp_path):
    policy = load_policy(llama_folder, ModelConfig())
    rows = policy.model.get_input_embeddings().num_embeddings
    policy.tokenizer.add_tokens([f"new{number}" for number in range(rows)])
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"the model has embeddings for {rows}"):  # else they would be random
        load_policy(tmp_path, ModelConfig())


@pytest.mark.parametrize("content", ["[]", "null", '{"model_type": [3]}'])
def test_a_config_that_is_none_is_an_error(llama_folder, content):
    (llama_folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(llama_folder, ModelConfig())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_hidden_layers", -1, "a size that no model has"),
        ("num_hidden_layers", 10**9, "a size that no model has"),  # would be built, one by one
        ("max_position_embeddings", 0, "a size that no model has"),
        ("vocab_size", "100", "a size that no model has"),
        ("intermediate_size", 1 << 20, "far more weights than the checkpoint holds"),
        ("num_hidden_layers", 100, "far more weights than the checkpoint holds"),
        ("num_key_value_heads", 1, "cannot be loaded"),
        ("hidden_size", 18, "cannot be loaded"),
        ("dtype", "float99", "cannot be loaded"),
        ("text_config", {"hidden_size": 8}, "cannot be loaded"),
        ("text_config", {"hidden_size": -8}, "a size that no model has"),
        ("sliding_window", -1, "a size that no model has"),
    ],
)
def test_numbers_of_a_config_that_no_model_has_are_told_before_the_model_is_built(llama_folder, key, value, said):
    change(llama_folder / "config.json", **{key: value})
    with pytest.raises(ModelError, match=said) as error:
        load_policy(llama_folder, ModelConfig())
    assert error.value.where.startswith(str(llama_folder))


def test_a_config_that_asks_for_tuples_is_read_by_name_all_the_same(llama_folder):
    change(llama_folder / "config.json", return_dict=False)
    reward_model = load_reward(llama_folder, ModelConfig(), from_policy=True)
    assert len(reward_model.score([[3, 4], [5]], microbatch=2)) == 2


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("generation_config.json", "eos_token_id", "x"), ("tokenizer_config.json", "model_max_length", [1])],
)
def test_settings_beside_the_config_are_looked_at_before_they_are_used(llama_folder, name, key, value):
    change(llama_folder / name, **{key: value})
    with pytest.raises(ModelError):
        load_policy(llama_folder, ModelConfig())


def test_a_tokenizer_file_that_its_library_refuses_is_an_error(llama_folder):
    (llama_folder / "tokenizer.json").write_text('{"version": {}}')
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded"):
        load_policy(llama_folder, ModelConfig())


def test_an_encoder_with_a_language_model_head_is_no_policy(llama_folder, tmp_path):
    tokenizer = load_policy(llama_folder, ModelConfig()).tokenizer
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    for is_decoder in (False, True):
        folder = tmp_path / str(is_decoder)
        BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), is_decoder=is_decoder, **sizes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="this model is an encoder"):
        load_policy(tmp_path / "False", ModelConfig())
    load_policy(tmp_path / "True", ModelConfig())


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_adapter_for_some_base_is_an_error(llama_folder):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someone/else", "target_modules": ["q_proj"]}
    (llama_folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ModelError, match="this is an adapter, not a whole model"):
        load_policy(llama_folder, ModelConfig())


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{% for i in range(10 ** 9) %}a{% endfor %}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ messages[5].content }}",
        "{% if %}",
    ],
)
def test_a_chat_template_that_misbehaves_is_an_error(llama_folder, template):
    tokenizer = load_policy(llama_folder, ModelConfig()).tokenizer
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="chat template refused a prompt"):
        PromptTemplate("chat", tokenizer).encode_prompt(Prompt("p", "a b"))
