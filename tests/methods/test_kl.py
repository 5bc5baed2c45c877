import math

import pytest
import torch

from rlp_engine.methods.kl import mean_sequence_kl, next_kl_coefficient, per_token_kl

LIVE = torch.tensor([[True, True, False]])
LOGPROBS = torch.tensor([[math.log(0.5), math.log(0.1), math.nan]])
REFERENCE = torch.tensor([[math.log(0.25), math.log(0.2), math.inf]])


@pytest.mark.parametrize(
    ("estimator", "wanted"),
    [
        ("k1", [math.log(2), -math.log(2), 0.0]),
        ("k3", [0.5 - 1 + math.log(2), 2 - 1 - math.log(2), 0.0]),
        ("clamped", [math.log(2), 0.0, 0.0]),
    ],
)
def test_numbers_worked_by_hand_and_padding_may_hold_anything(estimator, wanted):
    kl = per_token_kl(LOGPROBS, REFERENCE, LIVE, estimator)
    torch.testing.assert_close(kl, torch.tensor([wanted]), rtol=1e-6, atol=1e-7)


def test_expectation_of_k1_and_k3_is_the_kl_and_of_clamped_is_more():
    policy, reference = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)
    exact = (policy * (policy / reference).log()).sum().item()
    every_token = torch.ones(1, 3, dtype=torch.bool)
    means = {
        name: (policy * per_token_kl(policy.log()[None], reference.log()[None], every_token, name)[0]).sum().item()
        for name in ("k1", "k3", "clamped")
    }
    assert means["k1"] == pytest.approx(exact, rel=1e-12)
    assert means["k3"] == pytest.approx(exact, rel=1e-12)
    assert means["clamped"] > exact + 0.1


def test_bfloat16_inputs_are_subtracted_in_float32():
    logprobs = torch.tensor([[-300.0]], dtype=torch.bfloat16)
    reference = torch.tensor([[-1.0078125]], dtype=torch.bfloat16)
    kl = per_token_kl(logprobs, reference, torch.tensor([[True]]))
    assert kl.dtype == torch.float32
    assert kl.item() == -300.0 + 1.0078125


def test_k3_keeps_its_digits_near_0():
    kl = per_token_kl(torch.tensor([[1e-3]]), torch.tensor([[0.0]]), torch.tensor([[True]]), "k3")
    assert kl.item() == pytest.approx(0.5e-6, rel=1e-3)


def test_gradient_of_k1_pushes_the_log_probability_down():
    logprobs = LOGPROBS.clone().requires_grad_()
    per_token_kl(logprobs, REFERENCE, LIVE).sum().backward()
    assert logprobs.grad.tolist() == [[1.0, 1.0, 0.0]]


def test_refusals():
    with pytest.raises(ValueError, match="one shape"):
        per_token_kl(torch.zeros(2, 3), torch.zeros(1, 3), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="unknown KL estimator 'k2'"):
        per_token_kl(LOGPROBS, REFERENCE, LIVE, "k2")


def test_sequence_kl_sums_tokens_and_averages_sequences():
    assert mean_sequence_kl(torch.tensor([[1.0, 2.0], [0.0, 5.0]])).item() == 4.0


@pytest.mark.parametrize(
    ("kl", "factor"), [(6.0, 1.0), (6.6, 1.01), (600.0, 1.02), (0.0, 0.98), (-5.0, 0.98), (5.4, 0.99)]
)
def test_the_adaptive_coefficient_moves_towards_the_target_by_at_most_two_percent(kl, factor):
    assert next_kl_coefficient(0.02, kl, target=6.0, gain=0.1) == pytest.approx(0.02 * factor, rel=1e-9)


def test_a_kl_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="finite KL"):
        next_kl_coefficient(0.02, math.nan)


@pytest.mark.parametrize("gain", [-0.1, 5.0, math.nan])
def test_a_gain_that_could_turn_the_coefficient_round_is_refused(gain):
    with pytest.raises(ValueError, match="gain"):
        next_kl_coefficient(0.1, 0.0, gain=gain)


@pytest.mark.parametrize("shape", [(0, 3), (3,)])
def test_the_kl_of_no_sequence_is_refused(shape):
    with pytest.raises(ValueError, match="at least one sequence"):
        mean_sequence_kl(torch.zeros(shape))
