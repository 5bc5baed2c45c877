import pytest
import torch

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.data.batching import pad
from rlp_engine.models.reward import load_reward, save_reward
from rlp_engine.models.value import load_value

MODEL = ModelConfig()


@pytest.fixture
def value(policy_folder):
    value = load_value(policy_folder, MODEL)
    torch.manual_seed(0)
    torch.nn.init.normal_(value.head.weight)
    return value


def test_values_start_at_zero_and_the_head_learns_at_once(policy_folder, sequences):
    value = load_value(policy_folder, MODEL)
    ids, attention = pad(sequences, 0, "right")
    values = value(ids, attention)
    assert values.shape == ids.shape
    assert torch.equal(values, torch.zeros_like(values))
    (values - 1).square().sum().backward()
    assert value.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_value(value, sequences, side):
    ids, attention = pad(sequences, 0, side)
    with torch.no_grad():
        together = value(ids, attention)
        alone = torch.cat([value(torch.tensor([s]), torch.ones(1, len(s)))[0] for s in sequences])
    torch.testing.assert_close(together[attention.bool()], alone, rtol=0, atol=1e-5)


def test_a_value_sees_its_own_token_and_none_after_it(value, sequences):
    ids = torch.tensor([sequences[0]])
    changed = ids.clone()
    changed[0, 3] = sequences[1][0]
    with torch.no_grad():
        before, after = value(ids, torch.ones_like(ids)), value(changed, torch.ones_like(ids))
    torch.testing.assert_close(before[0, :3], after[0, :3], rtol=0, atol=1e-6)
    assert (before[0, 3:] - after[0, 3:]).abs().min() > 1e-4


def test_the_backbone_is_the_reward_models(policy_folder, tmp_path):
    reward = load_reward(policy_folder, MODEL, from_policy=True)
    with torch.no_grad():
        reward.backbone.get_input_embeddings().weight.mul_(1.5)  # as training would, away from the policy
    save_reward(reward, tmp_path / "reward")
    value = load_value(tmp_path / "reward", MODEL)
    expected, actual = reward.backbone.state_dict(), value.backbone.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
