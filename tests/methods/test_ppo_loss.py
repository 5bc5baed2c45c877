import math

import pytest
import torch

from rlp_engine.methods.ppo_loss import explained_variance, num_counted, policy_loss, value_loss

NAN = math.nan
LIVE = torch.tensor([[True, True, True], [True, False, False]])


def ratios(*numbers):
    return torch.tensor([numbers]).log(), torch.zeros(1, len(numbers)), torch.ones(1, len(numbers), dtype=torch.bool)


def test_ratio_1_gives_minus_the_mean_advantage():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, NAN, NAN]])
    advantages = torch.tensor([[1.0, 2.0, 3.0], [6.0, NAN, NAN]])
    loss, diagnostics = policy_loss(logprobs, logprobs, advantages, LIVE)
    assert loss.item() == -3.0
    assert {name: value.item() for name, value in diagnostics.items()} == {
        "clip_fraction": 0.0,
        "approximate_kl": 0.0,
        "ratio_mean": 1.0,
        "ratio_max": 1.0,
    }


def test_clipping_worked_by_hand():
    # A = 1: ratio 1.5 counts as 1.2, ratio .5 as .5.  A = -1: 1.5 as 1.5, .5 as .8
    logprobs, old, live = ratios(1.5, 0.5, 1.5, 0.5)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    loss, diagnostics = policy_loss(logprobs, old, advantages, live, clip_ratio=0.2)
    assert loss.item() == pytest.approx((-1.2 - 0.5 + 1.5 + 0.8) / 4, rel=1e-6)
    assert diagnostics["clip_fraction"].item() == 1.0
    assert diagnostics["ratio_max"].item() == pytest.approx(1.5, rel=1e-6)


def test_gradient_raises_good_tokens_and_stops_outside_the_interval():
    logprobs, old, live = ratios(1.0, 1.0, 1.5, 0.5, 1.5, 0.5)
    logprobs = logprobs.clone().requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, 1.0, 1.0, -1.0, -1.0]])
    policy_loss(logprobs, old, advantages, live, denominator=1)[0].backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-1.0, 1.0, 0.0, -0.5, 1.5, 0.0]]), rtol=1e-6, atol=1e-7)


def test_padding_may_hold_any_number_and_gets_no_gradient():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, NAN, math.inf]], requires_grad=True)
    old = torch.tensor([[-1.1, -2.0, -2.9], [-4.0, -math.inf, NAN]])
    advantages = torch.tensor([[1.0, 2.0, 3.0], [6.0, NAN, NAN]])
    loss, _ = policy_loss(logprobs, old, advantages, LIVE)
    loss.backward()
    assert loss.isfinite()
    assert logprobs.grad[~LIVE].tolist() == [0.0, 0.0]
    assert logprobs.grad[LIVE].isfinite().all()


def test_microbatches_add_up_to_the_minibatch():
    generator = torch.Generator().manual_seed(0)
    logprobs, old, advantages = torch.randn(3, 2, 3, generator=generator)
    whole, told = policy_loss(logprobs, old, advantages, LIVE)
    count = num_counted(LIVE)
    assert count == 4
    parts = [
        policy_loss(logprobs[i : i + 1], old[i : i + 1], advantages[i : i + 1], LIVE[i : i + 1], denominator=count)
        for i in range(2)
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole, rtol=1e-6, atol=1e-7)
    for name in ("clip_fraction", "approximate_kl", "ratio_mean"):
        torch.testing.assert_close(sum(d[name] for _, d in parts), told[name], rtol=1e-6, atol=1e-7)


def test_alpacafarm_means_run_over_padding_whose_ratio_is_1():
    live = torch.tensor([[True, False]])
    logprobs = torch.tensor([[math.log(1.1), NAN]], requires_grad=True)
    advantages = torch.tensor([[2.0, 3.0]])
    loss, _ = policy_loss(logprobs, torch.tensor([[0.0, -7.0]]), advantages, live, mask_padding=False)
    assert loss.item() == pytest.approx(-(2.0 * 1.1 + 3.0) / 2, rel=1e-6)
    loss.backward()
    assert logprobs.grad.tolist() == [[pytest.approx(-1.1, rel=1e-6), 0.0]]
    assert num_counted(live, mask_padding=False) == 2


@pytest.mark.parametrize("gap", [-1000.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_loss_and_gradient_stay_finite_at_any_ratio(gap, advantage):
    logprobs = torch.tensor([[gap]], requires_grad=True)
    live = torch.ones(1, 1, dtype=torch.bool)
    loss, diagnostics = policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), live)
    loss.backward()
    assert loss.isfinite()
    assert logprobs.grad.isfinite().all()
    assert all(value.isfinite() for value in diagnostics.values())


def test_bfloat16_log_probabilities_are_subtracted_in_float32():
    logprobs = torch.tensor([[-1.0]], dtype=torch.bfloat16)
    loss, _ = policy_loss(logprobs, torch.tensor([[-1.001]]), torch.tensor([[1.0]]), torch.ones(1, 1, dtype=torch.bool))
    assert loss.item() == pytest.approx(-math.exp(0.001), rel=1e-6)


def test_a_minibatch_without_live_tokens_has_loss_0():
    none = torch.zeros_like(LIVE)
    assert num_counted(none) == 1
    logprobs = torch.full((2, 3), NAN, requires_grad=True)
    loss, _ = policy_loss(logprobs, logprobs, logprobs, none, denominator=num_counted(none))
    loss.backward()
    assert loss.item() == 0.0
    assert not logprobs.grad.any()


def test_value_loss_takes_the_worse_of_plain_and_clipped():
    # V_old = 0, clip .2. V = 1 -> .2:  R = 1: max(0, .64) = .64;  R = 0: max(1, .04) = 1.  V = .1, R = 1: .81
    values = torch.tensor([[1.0, 1.0, 0.1]])
    live = torch.ones(1, 3, dtype=torch.bool)
    loss, diagnostics = value_loss(values, torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 1.0]]), live, clip_value=0.2)
    assert loss.item() == pytest.approx(0.5 * (0.64 + 1.0 + 0.81) / 3, rel=1e-6)
    assert diagnostics["value_clip_fraction"].item() == pytest.approx(2 / 3, rel=1e-6)
    assert diagnostics["value_error"].item() == pytest.approx(1.9 / 3, rel=1e-6)


def test_value_gradient_points_to_the_return():
    values = torch.zeros(1, 2, requires_grad=True)
    live = torch.ones(1, 2, dtype=torch.bool)
    value_loss(values, torch.zeros(1, 2), torch.tensor([[1.0, -3.0]]), live, denominator=1)[0].backward()
    assert values.grad.tolist() == [[-1.0, 3.0]]


def test_values_of_padding_are_trained_only_as_alpacafarm_did():
    live = torch.tensor([[True, False]])
    for mask_padding, wanted in ((True, 0.0), (False, 0.5 * 9 / 2)):
        values = torch.tensor([[0.0, 3.0]], requires_grad=True)
        loss, _ = value_loss(values, values.detach(), torch.zeros(1, 2), live, mask_padding=mask_padding)
        loss.backward()
        assert loss.item() == pytest.approx(wanted, rel=1e-6)
        assert bool(values.grad[0, 1] != 0) is not mask_padding


def test_explained_variance_of_perfect_constant_and_reversed_values():
    returns = torch.tensor([[1.0, 2.0, 3.0], [4.0, NAN, NAN]])
    assert explained_variance(returns, returns, LIVE).item() == 1.0
    assert explained_variance(torch.full((2, 3), 9.0), returns, LIVE).item() == 0.0
    assert explained_variance(-returns, returns, LIVE).item() == -3.0
    assert explained_variance(returns, torch.ones(2, 3), LIVE).item() == 0.0


def test_refusals():
    good = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one shape"):
        policy_loss(good, good, torch.zeros(2, 1), LIVE)
    with pytest.raises(ValueError, match="one shape"):
        value_loss(good, good, torch.zeros(2, 1), LIVE)
    with pytest.raises(ValueError, match="must be bool"):
        policy_loss(good, good, good, LIVE.long())
    with pytest.raises(ValueError, match="clip_ratio"):
        policy_loss(good, good, good, LIVE, clip_ratio=0.0)
    with pytest.raises(ValueError, match="clip_value"):
        value_loss(good, good, good, LIVE, clip_value=-0.2)


def test_explained_variance_refuses_an_integer_mask_which_would_name_rows():
    values = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="must be bool"):
        explained_variance(values, values, torch.tensor([[1, 0], [1, 1]]))
