import math

import pytest
import torch
from torch import nn

from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.errors import CorruptArtifactError, HealthError
from rlp_engine.training.optimizer import ParameterGroup, Updater, learning_rate_at

CPU = torch.device("cpu")
PLAIN = OptimizerConfig(learning_rate=0.1, schedule="constant", warmup=0, max_grad_norm=1e6)


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(3, 1).to(dtype)


def updater(module, config=PLAIN, total=10):
    return Updater([ParameterGroup("all", {"net": module})], config, total, CPU)


def squares(module, rows, denominator):
    """Shares of a mean of squares, one a row."""
    return [lambda row=row: module(row).float().square().sum() / denominator for row in rows]


def rates(total, **config):
    return [learning_rate_at(i, total, OptimizerConfig(learning_rate=8.0, **config)) for i in range(total)]


def test_linear_schedule_matches_numbers_worked_by_hand():
    # warm-up of 3 steps: quarters of the peak; then 8 * (1 - k/4)
    assert rates(7, schedule="linear", warmup=3) == pytest.approx([2, 4, 6, 8, 6, 4, 2])


def test_cosine_schedule_matches_numbers_worked_by_hand():
    # 8 * (1 + cos(pi k/4)) / 2
    half = 4 * math.sqrt(0.5)
    assert rates(4, schedule="cosine", warmup=0) == pytest.approx([8, 4 + half, 4, 4 - half])


def test_warmup_below_one_is_a_share_of_the_steps():
    assert rates(10, schedule="constant", warmup=0.15) == rates(10, schedule="constant", warmup=2)
    assert rates(3, schedule="constant", warmup=0.0) == [8, 8, 8]


def test_no_step_learns_nothing():
    assert min(rates(20, schedule="cosine", warmup=5)) > 0


def test_shares_of_microbatches_make_the_update_of_the_whole_minibatch():
    rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    one, many = linear(), linear()
    whole = updater(one).update([lambda: one(rows).square().sum() / 6], 0)
    parts = updater(many).update(squares(many, rows, 6), 0)
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(many.weight, one.weight, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_to_the_norm():
    module = linear()
    config = PLAIN.model_copy(update={"max_grad_norm": 0.5})
    metrics = updater(module, config).update([lambda: 100 * module(torch.ones(3)).sum()], 0)
    assert metrics["grad_norm"] == pytest.approx(200.0)  # before clipping: 100 * sqrt(3 + 1)
    norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.5), rtol=1e-4, atol=0)


def test_bfloat16_weights_learn_in_steps_smaller_than_their_resolution():
    # the step is 1e-5, bfloat16 around 1 has steps of 4e-3 to 8e-3: without a float32 copy nothing would move
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(module.weight)
    train = updater(module, PLAIN.model_copy(update={"learning_rate": 1e-5}))
    for _ in range(600):
        train.update([lambda: module(torch.ones(1, dtype=torch.bfloat16)).sum()], 0)
    assert module.weight.dtype == torch.bfloat16
    assert 0.992 <= module.weight.item() < 1.0


def test_shares_of_bfloat16_weights_add_up_too():
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    one, many = linear(torch.bfloat16), linear(torch.bfloat16)
    whole = updater(one).update([lambda: one(rows).float().square().sum() / 4], 0)
    parts = updater(many).update(squares(many, rows, 4), 0)
    assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=0.02)  # a bfloat16 has 8 bits


def test_frozen_parameters_and_groups_without_gradients_stay():
    used, unused = linear(), linear()
    used.bias.requires_grad_(False)
    before = {"bias": used.bias.clone(), "unused": unused.weight.clone()}
    groups = [ParameterGroup("used", {"a": used}), ParameterGroup("unused", {"b": unused}, learning_rate=1.0)]
    train = Updater(groups, PLAIN.model_copy(update={"weight_decay": 0.1}), 10, CPU)
    metrics = train.update([lambda: used(torch.ones(3)).sum()], 0, resting=["unused"])
    assert torch.equal(used.bias, before["bias"])
    assert torch.equal(unused.weight, before["unused"])
    assert "grad_norm_unused" not in metrics
    assert not any(name.endswith("a.bias") for name in train.tensors())


def test_a_group_can_have_a_rate_of_its_own_without_a_schedule():
    one, two = linear(), linear()
    groups = [ParameterGroup("one", {"a": one}), ParameterGroup("two", {"b": two}, learning_rate=0.3, constant=True)]
    train = Updater(groups, OptimizerConfig(learning_rate=0.1, schedule="linear", warmup=0), 2, CPU)
    metrics = train.update([lambda: (one(torch.ones(3)) + two(torch.ones(3))).sum()], 1)
    assert metrics["learning_rate"] == pytest.approx(0.05)
    assert metrics["learning_rate_two"] == 0.3


def test_a_loss_that_is_not_finite_leaves_the_weights_alone():
    module = linear()
    before = module.weight.clone()
    with pytest.raises(HealthError, match="loss is nan"):
        updater(module).update([lambda: module(torch.ones(3)).sum() * float("nan")], 0)
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restored_state_goes_on_bit_for_bit(dtype):
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).to(dtype)

    def some_steps(module, train, first):
        for index in range(first, first + 3):
            train.update(squares(module, rows, 4), index)

    straight = linear(dtype)
    train = updater(straight)
    some_steps(straight, train, 0)
    saved = {name: tensor.clone() for name, tensor in train.tensors().items()}
    some_steps(straight, train, 3)

    other = nn.Linear(3, 1).to(dtype)
    resumed = updater(other)
    resumed.restore(saved)
    some_steps(other, resumed, 3)
    assert torch.equal(other.weight, straight.weight)


def test_state_of_another_model_is_refused():
    saved = updater(nn.Linear(2, 1)).tensors()
    with pytest.raises(CorruptArtifactError, match="does not fit the model"):
        updater(linear()).restore(saved)
