import warnings

import pytest
import torch
from plain_transformers import score_difference
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlp_engine.config.sections.model import LoraConfig, ModelConfig
from rlp_engine.errors import ModelError
from rlp_engine.models.lora import adapters_off, add_lora, has_adapters, merged_state
from rlp_engine.models.policy import load_policy, save_policy
from rlp_engine.models.reward import load_reward, save_reward
from rlp_engine.models.value import load_value

MODEL = ModelConfig()
LORA = LoraConfig(rank=4, alpha=8.0)
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def train_a_little(module):
    """Move every trainable weight, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.fixture
def adapted(policy_folder):
    policy = load_policy(policy_folder, MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns when it is told the wrong layout of GPT-2's layers
        add_lora(policy.model, LORA, seed=2)
    return policy


def test_fresh_adapters_change_nothing(policy_folder, adapted):
    assert has_adapters(adapted.model)
    assert torch.equal(logits(adapted.model), logits(load_policy(policy_folder, MODEL).model))


def test_without_its_adapters_the_model_is_the_sft_policy(policy_folder, adapted):
    sft = logits(load_policy(policy_folder, MODEL).model)
    train_a_little(adapted.model)
    trained = logits(adapted.model)
    assert (trained - sft).abs().max() > 0.01
    with adapters_off(adapted.model):
        assert torch.equal(logits(adapted.model), sft)
    assert torch.equal(logits(adapted.model), trained)


def test_adapters_come_back_and_still_train_after_an_error(adapted):
    with pytest.raises(KeyError), adapters_off(adapted.model):
        raise KeyError("anything")
    trainable = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(".lora_" in name for name in trainable)


def test_a_model_without_adapters_is_no_reference_for_itself(policy):
    with pytest.raises(AssertionError), adapters_off(policy.model):
        pass


def test_the_saved_policy_is_merged_and_plain(adapted, tmp_path):
    train_a_little(adapted.model)
    live = logits(adapted.model)
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    save_policy(adapted, tmp_path / "merged")
    names = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(plain), live, rtol=0, atol=1e-5)
    after = adapted.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # saving is no step of training


def test_the_saved_reward_model_is_merged_with_its_head(policy_folder, sequences, tmp_path):
    reward = load_reward(policy_folder, MODEL, from_policy=True, seed=3)
    add_lora(reward, LORA, seed=2)
    train_a_little(reward)
    scores = reward.score(sequences, microbatch=4)
    save_reward(reward, tmp_path / "reward")
    assert score_difference(tmp_path / "reward", sequences, scores) <= 1e-5


def test_only_adapters_and_the_new_head_are_trained(llama_folder):
    reward = load_reward(llama_folder, MODEL, from_policy=True)
    add_lora(reward, LORA)
    plain = {name for name, p in reward.named_parameters() if p.requires_grad and ".lora_" not in name}
    assert plain == {"model.score.weight"}
    value = load_value(llama_folder, MODEL)
    add_lora(value, LORA)
    plain = {name for name, p in value.named_parameters() if p.requires_grad and ".lora_" not in name}
    assert plain == {"head.weight", "head.bias"}


def test_all_linear_is_every_linear_layer_but_the_head(llama_folder):
    policy = load_policy(llama_folder, MODEL)
    add_lora(policy.model, LORA)
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in policy.model.state_dict() if ".lora_" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_rank_0_leaves_everything_trainable(policy):
    add_lora(policy.model, LoraConfig())
    assert not has_adapters(policy.model)
    assert all(parameter.requires_grad for parameter in policy.model.parameters())


def test_the_seed_alone_draws_the_adapters(llama_folder):
    drawn = []
    for noise, seed in ((0, 2), (1, 2), (0, 3)):
        policy = load_policy(llama_folder, MODEL)
        torch.manual_seed(noise)
        add_lora(policy.model, LORA, seed=seed)
        drawn.append(next(p for name, p in policy.model.named_parameters() if ".lora_A" in name))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_adapters_of_a_bfloat16_model_are_float32_and_merge_to_bfloat16(llama_folder):
    policy = load_policy(llama_folder, ModelConfig(dtype="bfloat16"))
    add_lora(policy.model, LORA)
    dtypes = {p.dtype for p in policy.model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}
    torch.testing.assert_close(
        logits(policy.model), logits(load_policy(llama_folder, ModelConfig(dtype="bfloat16")).model)
    )
    assert {tensor.dtype for tensor in merged_state(policy.model).values()} == {torch.bfloat16}


def test_names_that_match_no_layer_are_an_error(llama_folder):
    policy = load_policy(llama_folder, MODEL)
    with pytest.raises(ModelError, match="no layer") as error:
        add_lora(policy.model, LoraConfig(rank=2, target_modules=["c_attn"]))
    assert "c_attn" in error.value.where
