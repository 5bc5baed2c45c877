"""One copy of the base weights under four roles, against the same models loaded one by one."""

import copy

import pytest
import torch

from rlp_engine.config.sections.model import LoraConfig, ModelConfig
from rlp_engine.errors import CorruptArtifactError
from rlp_engine.models.loading import load_config
from rlp_engine.models.lora import add_lora
from rlp_engine.models.policy import load_policy
from rlp_engine.models.reward import load_reward, save_reward
from rlp_engine.models.shared_base import (
    base_digest,
    load_reward_adapter,
    reward_on_base,
    save_reward_adapter,
    value_on_base,
    weight_bytes,
)
from rlp_engine.models.value import load_value

MODEL = ModelConfig()
LORA = LoraConfig(rank=4, alpha=8.0)
IDS = torch.tensor([[3, 4, 5, 6, 7], [6, 5, 4, 3, 2]])
LIVE = torch.tensor([[True] * 5, [True] * 4 + [False]])


def train_a_little(module):
    """Move every trainable weight, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.fixture
def trained(policy_folder, tmp_path):
    """A trained reward model's folders: model/ merged, adapter/ alone."""
    reward = load_reward(policy_folder, MODEL, from_policy=True, seed=3)
    add_lora(reward, LORA, seed=2)
    train_a_little(reward)
    save_reward(reward, tmp_path / "model")
    save_reward_adapter(reward, LORA, tmp_path / "adapter")
    return tmp_path


def on_one_base(trained, model=MODEL):
    policy = load_policy(trained / "policy", model)
    adapter = load_reward_adapter(trained / "adapter")
    assert adapter.base == base_digest(policy.model.base_model)
    config = load_config(trained / "model", model)
    reward = reward_on_base(policy.model.base_model, adapter, config, policy.tokenizer)
    value = value_on_base(policy.model.base_model, reward, LORA, seed=4)
    add_lora(policy.model, LORA, seed=5)
    return policy, reward, value


def loaded_alone(trained, model=MODEL):
    policy = load_policy(trained / "policy", model)
    value = load_value(trained / "model", model)
    add_lora(value, LORA, seed=4)
    add_lora(policy.model, LORA, seed=5)
    return policy, load_reward(trained / "model", model), value


def gradients(value):
    """Of a loss over live positions, after the head has left 0, where nothing would reach the adapters."""
    torch.manual_seed(0)
    torch.nn.init.normal_(value.head.weight, std=0.1)
    value.train()
    value(IDS, LIVE)[LIVE].square().mean().backward()
    return {name: p.grad for name, p in value.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rewards_values_and_gradients_are_those_of_models_loaded_alone(trained, sequences, checkpointing):
    model = ModelConfig(gradient_checkpointing=checkpointing)
    _, reward, value = on_one_base(trained, model)
    _, other_reward, other_value = loaded_alone(trained, model)
    expected = other_reward.embed(sequences, microbatch=4)
    found = reward.embed(sequences, microbatch=4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.rewards_B.std() > 0.1
    grads, other_grads = gradients(value), gradients(other_value)
    assert grads.keys() == other_grads.keys()
    assert any(".lora_B" in name and grad.abs().max() > 1e-3 for name, grad in grads.items())
    for name, grad in other_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-5, atol=1e-5)


def test_each_base_weight_is_there_once_and_each_role_has_its_own_adapters(trained):
    policy, reward, value = on_one_base(trained)
    base = {name: p for name, p in policy.model.base_model.named_parameters() if ".lora_" not in name}
    for backbone in (reward.backbone, value.backbone):
        own = {name: p for name, p in backbone.named_parameters() if ".lora_" not in name}
        assert own.keys() == base.keys()
        assert all(own[name] is base[name] for name in base)
    alone = weight_bytes([load_policy(trained / "policy", MODEL).model])
    adapters = sum(p.nbytes for name, p in policy.model.named_parameters() if ".lora_" in name)
    heads = sum(p.nbytes for head in (reward.head, value.head) for p in head.parameters())
    roles = [policy.model, reward, value]
    assert weight_bytes(roles) == alone + 3 * adapters + heads
    value_head = sum(p.nbytes for p in value.head.parameters())
    assert weight_bytes(roles, trainable=True) == 2 * adapters + value_head
    names = [name for name, p in value.named_parameters() if p.requires_grad]
    assert names == [name for name, p in loaded_alone(trained)[2].named_parameters() if p.requires_grad]


def test_training_the_value_model_moves_no_other_role(trained, sequences):
    policy, reward, value = on_one_base(trained)
    with torch.no_grad():
        before = copy.deepcopy((policy.model(input_ids=IDS).logits, reward.embed(sequences, microbatch=4)))
        train_a_little(value)
        after = (policy.model(input_ids=IDS).logits, reward.embed(sequences, microbatch=4))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_the_digest_knows_the_base_under_adapters_and_from_any_other(trained):
    policy = load_policy(trained / "policy", MODEL).model
    digest = load_reward_adapter(trained / "adapter").base
    assert base_digest(load_policy(trained / "policy", ModelConfig(dtype="bfloat16")).model.base_model) != digest
    add_lora(policy, LORA)
    assert base_digest(policy.base_model) == digest
    with torch.no_grad():
        next(policy.base_model.parameters())[3, 3] += 1e-3
    assert base_digest(policy.base_model) != digest
    assert base_digest(load_reward(trained / "model", MODEL).backbone) != digest


def test_a_cut_off_adapter_is_an_error(trained):
    file = trained / "adapter" / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CorruptArtifactError, match="cannot be read"):
        load_reward_adapter(trained / "adapter")
