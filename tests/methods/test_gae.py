import math

import pytest
import torch

from rlp_engine.methods.gae import (
    advantages,
    last_live_index,
    scores_without_eos,
    token_rewards,
    whiten_rewards,
)
from rlp_engine.methods.kl import per_token_kl
from rlp_engine.methods.masked import whiten

NAN = math.nan
LIVE = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


def test_last_live_index_is_minus_1_without_tokens():
    assert last_live_index(LIVE).tolist() == [2, 0, -1]


def test_the_score_lands_on_the_last_live_token_and_kl_is_charged_on_all():
    kl = torch.tensor([[1.0, -2.0, 3.0], [4.0, NAN, NAN], [NAN, NAN, NAN]])
    rewards = token_rewards(kl, torch.tensor([10.0, 20.0, 30.0]), LIVE, 0.5)
    assert rewards.tolist() == [[-0.5, 1.0, 8.5], [18.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_an_empty_response_is_scored_at_the_end_only_as_alpacafarm_did():
    kl = torch.zeros(3, 3)
    rewards = token_rewards(kl, torch.tensor([10.0, 20.0, 30.0]), LIVE, 0.5, score_empty_at_end=True)
    assert rewards.tolist() == [[0.0, 0.0, 10.0], [20.0, 0.0, 0.0], [0.0, 0.0, 30.0]]


def test_a_score_of_nan_in_an_empty_response_spreads_nowhere():
    rewards = token_rewards(torch.zeros(3, 3), torch.tensor([1.0, 1.0, NAN]), LIVE, 0.5)
    assert rewards.isfinite().all()


@pytest.mark.parametrize(("mode", "wanted"), [("off", [3.0, 3.0]), ("replace", [3.0, -1.5]), ("subtract", [3.0, 1.5])])
def test_a_missing_eos(mode, wanted):
    scores = scores_without_eos(torch.tensor([3.0, 3.0]), torch.tensor([True, False]), mode, 1.5)
    assert scores.tolist() == wanted


def test_gae_worked_by_hand():
    # gamma .9, lambda .5: delta = [1 + .9*3 - 2, 2 + .9*1 - 3, 4 - 1] = [1.7, -.1, 3]
    # A3 = 3, A2 = -.1 + .45*3 = 1.25, A1 = 1.7 + .45*1.25 = 2.2625
    got, returns = advantages(
        torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[2.0, 3.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool), 0.9, 0.5
    )
    torch.testing.assert_close(got, torch.tensor([[2.2625, 1.25, 3.0]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(returns, torch.tensor([[4.2625, 4.25, 4.0]]), rtol=1e-6, atol=0)


def test_lambda_1_and_gamma_1_give_the_rewards_to_come_minus_the_value():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([6, 1, 3, 0])
    live = torch.arange(6)[None, :] < lengths[:, None]
    got, returns = advantages(rewards, values, live, 1.0, 1.0)
    to_come = (rewards * live).flip(1).cumsum(1).flip(1) * live
    torch.testing.assert_close(returns, to_come, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, (to_come - values) * live, rtol=1e-12, atol=1e-12)


def test_lambda_0_gives_the_one_step_error_with_value_0_after_the_end():
    live = torch.tensor([[True, True, False]])
    got, _ = advantages(torch.tensor([[1.0, 2.0, NAN]]), torch.tensor([[0.5, 0.25, NAN]]), live, 1.0, 0.0)
    assert got.tolist() == [[0.75, 1.75, 0.0]]


def test_what_padding_holds_changes_nothing():
    rewards, values = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1))
    clean = advantages(rewards, values, LIVE, 0.9, 0.8)
    dirty = advantages(rewards.masked_fill(~LIVE, NAN), values.masked_fill(~LIVE, math.inf), LIVE, 0.9, 0.8)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


def test_a_row_is_the_same_alone_and_padded():
    rewards, values = torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(2))
    alone = advantages(rewards, values, torch.ones(1, 2, dtype=torch.bool), 0.9, 0.8)[0]
    pad = torch.full((1, 3), 7.0)
    live = torch.tensor([[True, True, False, False, False]])
    padded = advantages(torch.cat([rewards, pad], 1), torch.cat([values, pad], 1), live, 0.9, 0.8)[0]
    assert torch.equal(padded[:, :2], alone)


def test_alpacafarm_lets_padding_take_part():
    live = torch.tensor([[True, False]])
    got, returns = advantages(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]]), live, 1.0, 1.0, mask_padding=False
    )
    assert got.tolist() == [[1.0, -5.0]]  # delta_1 = 1 + 5 - 0 = 6; A_1 = 6 - 5
    assert returns.tolist() == [[1.0, 0.0]]


def test_no_gradient_flows_into_the_values():
    values = torch.zeros(1, 2, requires_grad=True)
    got, returns = advantages(torch.ones(1, 2), values, torch.ones(1, 2, dtype=torch.bool), 1.0, 1.0)
    assert not got.requires_grad
    assert not returns.requires_grad


def test_bfloat16_values_are_added_in_float32():
    ones = torch.ones(1, 300, dtype=torch.bfloat16)
    got, _ = advantages(ones, torch.zeros_like(ones), torch.ones(1, 300, dtype=torch.bool), 1.0, 1.0)
    assert got[0, 0].item() == 300.0


@pytest.mark.parametrize(("mode", "mask_padding"), [("off", True), ("scale", True), ("keep-mean", False)])
def test_reward_whitening_modes(mode, mask_padding):
    live = torch.tensor([[True, True], [True, False]])
    rewards = torch.tensor([[0.0, 2.0], [4.0, 0.0]])
    wanted = {
        "off": rewards,
        "scale": rewards / math.sqrt(8 / 3),
        "keep-mean": (rewards - 1.5) / math.sqrt(2.75) + 1.5,  # over all four entries
    }[mode]
    got = whiten_rewards(rewards, live, mode, mask_padding=mask_padding)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def test_alpacafarm_step_as_run_against_its_own_arithmetic():
    """METHOD 5.1, steps 4 to 6 written out for one device, padding included."""
    generator = torch.Generator().manual_seed(3)
    logprobs, reference, values = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    live = torch.tensor([[True, True, False, False], [True, True, True, True]])
    scores = torch.tensor([2.0, -1.0], dtype=torch.float64)
    log_ratio = torch.where(live, logprobs - reference, torch.zeros(()).double())

    rewards = token_rewards(per_token_kl(logprobs, reference, live, "clamped"), scores, live, 0.02)
    rewards = whiten_rewards(rewards, live, "keep-mean", mask_padding=False)
    got, returns = advantages(rewards, values, live, 1.0, 1.0, mask_padding=False)

    shaped = -0.02 * log_ratio.clamp(min=0)
    shaped[0, 1] += 2.0
    shaped[1, 3] += -1.0
    shaped = (shaped - shaped.mean()) / (shaped.std(correction=0) + 1e-8) + shaped.mean()
    to_come = shaped.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, to_come, rtol=1e-10, atol=1e-10)
    wanted = to_come - values
    whitened = (wanted - wanted.mean()) / (wanted.std(correction=0) + 1e-8)
    torch.testing.assert_close(whiten(got, torch.ones_like(live)), whitened, rtol=1e-10, atol=1e-10)


def test_a_dead_token_before_a_live_one_is_refused():
    left_padded = torch.tensor([[False, True]])
    with pytest.raises(ValueError, match="right-padded"):
        advantages(torch.zeros(1, 2), torch.zeros(1, 2), left_padded, 1.0, 1.0)
    with pytest.raises(ValueError, match="right-padded"):
        token_rewards(torch.zeros(1, 2), torch.zeros(1), left_padded, 1.0)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="scores of shape"):
        token_rewards(torch.zeros(3, 3), torch.zeros(3, 1), LIVE, 1.0)
    with pytest.raises(ValueError, match="one shape"):
        advantages(torch.zeros(3, 3), torch.zeros(3, 1), LIVE, 1.0, 1.0)
    with pytest.raises(ValueError, match="one shape"):
        scores_without_eos(torch.zeros(3), torch.ones(3, 1, dtype=torch.bool), "off", 1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: whiten_rewards(torch.zeros(3, 3), LIVE, "on"),
        lambda: scores_without_eos(torch.zeros(1), torch.ones(1, dtype=torch.bool), "on", 1.0),
    ],
)
def test_unknown_modes_are_refused(call):
    with pytest.raises(ValueError, match="unknown mode 'on'"):
        call()
