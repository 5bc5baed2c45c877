"""Model folders that do not hold together, and chat templates that misbehave: one ModelError each."""

from __future__ import annotations

import json

import pytest

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import ModelError
from rlp_engine.models.policy import load_policy


def test_a_tokenizer_larger_than_the_embedding_is_an_error(llama_folder, tmp_path):
    policy = load_policy(llama_folder, ModelConfig())
    rows = policy.model.get_input_embeddings().num_embeddings
    policy.tokenizer.add_tokens([f"new{number}" for number in range(rows)])
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"the model has embeddings for {rows}"):  # else they would be random
        load_policy(tmp_path, ModelConfig())


@pytest.mark.parametrize("content", ["[]", "null", '{"model_type": "llama", "num_attention_heads": 0}'])
def test_a_config_that_is_none_is_an_error(llama_folder, content):
    (llama_folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(llama_folder, ModelConfig())


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
