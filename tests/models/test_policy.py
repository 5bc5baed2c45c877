import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.errors import ModelError
from rlp_engine.models.policy import load_policy, same_token_ids, save_policy

MODEL = ModelConfig()
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def write_model(folder, *, vocabulary=6, rows=6, tied=False, pad_token=None, eos_token="</s>"):
    """A Llama as people publish them: often no pad token, sometimes more embedding rows than tokens."""
    words = ["</s>", "<unk>", "a", "b", "c", "d"][:vocabulary]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos_token, unk_token="<unk>", pad_token=pad_token
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
    )
    module = LlamaForCausalLM(config)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return module


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("pad_token", [None, "</s>"])
def test_a_pad_token_distinct_from_eos_is_added_with_mean_rows(tmp_path, tied, pad_token):
    old = write_model(tmp_path, tied=tied, pad_token=pad_token)
    policy = load_policy(tmp_path, MODEL)
    pad = policy.tokenizer.pad_token_id
    assert (policy.tokenizer.pad_token, pad) == ("[PAD]", 6)
    assert pad not in policy.eos_ids
    assert policy.model.config.pad_token_id == policy.model.generation_config.pad_token_id == pad
    for table, before in (
        (policy.model.get_input_embeddings(), old.get_input_embeddings()),
        (policy.model.get_output_embeddings(), old.get_output_embeddings()),
    ):
        assert torch.equal(table.weight[:6], before.weight)
        torch.testing.assert_close(table.weight[6], before.weight.mean(dim=0), rtol=0, atol=1e-7)
    assert (policy.model.lm_head.weight is policy.model.model.embed_tokens.weight) == tied


def test_an_unused_embedding_row_becomes_the_pad_tokens(tmp_path):
    old = write_model(tmp_path, rows=8)
    policy = load_policy(tmp_path, MODEL)
    table = policy.model.get_input_embeddings().weight
    assert table.shape[0] == 8
    torch.testing.assert_close(table[6], old.get_input_embeddings().weight[:6].mean(dim=0), rtol=0, atol=1e-7)


def test_a_pad_token_that_is_there_stays(tmp_path):
    old = write_model(tmp_path, pad_token="<unk>")
    policy = load_policy(tmp_path, MODEL)
    assert policy.tokenizer.pad_token == "<unk>"
    assert torch.equal(policy.model.lm_head.weight, old.lm_head.weight)


def test_the_added_pad_token_survives_saving_and_plain_loading(tmp_path):
    write_model(tmp_path / "base")
    policy = load_policy(tmp_path / "base", MODEL)
    save_policy(policy, tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain.config.pad_token_id == tokenizer.pad_token_id == policy.tokenizer.pad_token_id
    assert same_token_ids(tokenizer, policy.tokenizer)
    ids = torch.tensor([[2, 3, 4, 1, 6]])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, policy.model(ids).logits, rtol=0, atol=0)


def test_a_saved_policy_gives_the_same_logits_in_plain_transformers(policy_folder):
    ours = load_policy(policy_folder, MODEL).model
    plain = AutoModelForCausalLM.from_pretrained(policy_folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS).logits, plain(IDS).logits, rtol=0, atol=1e-6)
    assert (policy_folder / "model.safetensors").is_file()


def test_saving_twice_gives_the_same_bytes(policy, tmp_path):
    save_policy(policy, tmp_path / "a")
    save_policy(policy, tmp_path / "b")
    for file in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_every_eos_of_the_generation_config_ends_an_answer(tmp_path):
    write_model(tmp_path)
    policy = load_policy(tmp_path, MODEL)
    policy.model.generation_config.eos_token_id = [3, 0]
    assert policy.eos_ids == (0, 3)


def test_dropout_of_the_models_config_is_off_in_training_too(policy_folder):
    model = load_policy(policy_folder, MODEL).model.train()
    assert torch.equal(model(IDS).logits, model(IDS).logits)


def test_weights_take_the_configured_dtype(llama_folder):
    model = load_policy(llama_folder, ModelConfig(dtype="bfloat16")).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_gradient_checkpointing_gives_the_same_gradient(llama_folder):
    gradients = []
    for checkpointing in (False, True):
        model = load_policy(llama_folder, ModelConfig(gradient_checkpointing=checkpointing)).model.train()
        model(IDS).logits.square().sum().backward()
        assert model.is_activation_checkpointing == checkpointing
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("source", ["no/such/folder/here", "./missing", "~/missing"])
def test_a_missing_folder_is_named(source):
    with pytest.raises(ModelError, match="no such model folder") as error:
        load_policy(source, MODEL)
    assert "missing" in error.value.where or "no/such" in error.value.where
    assert "OWNER/NAME" in error.value.mend


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "model.gguf").write_text("x")
    with pytest.raises(ModelError, match="a file stands where a model folder should be"):
        load_policy(str(tmp_path / "model.gguf"), MODEL)


@pytest.mark.parametrize("source", ["nobody/nothing", "nothing"])
def test_a_hub_model_without_network_says_what_to_check(monkeypatch, source):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as error:
        load_policy(source, MODEL)
    assert error.value.where == source
    assert "network" in error.value.mend
    assert "hf auth login" in error.value.mend


def test_pickled_weights_are_refused(llama_folder):
    weights = llama_folder / "model.safetensors"
    torch.save({}, llama_folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="no safetensors") as error:
        load_policy(llama_folder, MODEL)
    assert error.value.found == "pytorch_model.bin"
    assert "save_pretrained" in error.value.mend


@pytest.mark.parametrize("broken", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_broken_file_gives_a_mend_and_no_traceback(llama_folder, broken):
    (llama_folder / broken).write_bytes(b"{ half a fi")
    with pytest.raises(ModelError) as error:
        load_policy(llama_folder, MODEL)
    assert error.value.where == str(llama_folder)
    assert error.value.mend


def test_weights_that_are_not_in_the_checkpoint_are_named(llama_folder):
    config = json.loads((llama_folder / "config.json").read_text())
    (llama_folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="9 weights of LlamaForCausalLM are not in the checkpoint") as error:
        load_policy(llama_folder, MODEL)
    assert "model.layers.2." in error.value.found


def test_a_tokenizer_without_eos_is_an_error(tmp_path):
    write_model(tmp_path, eos_token=None)
    with pytest.raises(ModelError, match="no EOS token"):
        load_policy(tmp_path, MODEL)


REMOTE_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path(__file__).with_name("it_ran").touch()
class OddConfig(LlamaConfig):
    model_type = "odd"
class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig
"""


def test_code_that_comes_with_a_model_runs_only_when_the_config_says_so(llama_folder, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (llama_folder / "odd.py").write_text(REMOTE_CODE)
    config = json.loads((llama_folder / "config.json").read_text())
    auto_map = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    (llama_folder / "config.json").write_text(json.dumps(config | {"model_type": "odd", "auto_map": auto_map}))
    with pytest.raises(ModelError) as error:
        load_policy(llama_folder, MODEL)
    assert "model.trust_remote_code" in error.value.mend
    assert not list(tmp_path.rglob("it_ran"))
    policy = load_policy(llama_folder, ModelConfig(trust_remote_code=True))
    assert type(policy.model).__name__ == "OddForCausalLM"
    assert list(tmp_path.rglob("it_ran"))


def test_the_text_of_an_answer_has_no_eos_even_one_that_only_the_generation_config_names(tmp_path):
    module = write_model(tmp_path)
    module.generation_config.eos_token_id = [0, 5]  # 5 is the plain word "d" to the tokenizer
    module.generation_config.save_pretrained(tmp_path)
    policy = load_policy(tmp_path, MODEL)
    assert policy.answer_text([2, 3, 5]) == "a b"
    assert policy.answer_text([2, 5, 3, 0]) == "a d b"
    assert policy.answer_text([2, 3]) == "a b"
    assert policy.answer_text([]) == ""
