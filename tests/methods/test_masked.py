import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlp_engine.methods.masked import counted, masked_mean, scale_only, whiten, zero_elsewhere

NAN = math.nan
VALUES = torch.tensor([[1.0, 3.0, NAN], [5.0, NAN, NAN]])
COUNTS = torch.tensor([[True, True, False], [True, False, False]])


def test_mean_of_one_three_five():
    assert masked_mean(VALUES, COUNTS).item() == 3.0


def test_shares_of_microbatches_add_up_to_the_minibatch_mean():
    shares = [masked_mean(VALUES[i : i + 1], COUNTS[i : i + 1], denominator=3) for i in range(2)]
    assert sum(shares).item() == pytest.approx(3.0, rel=1e-6)


def test_whitened_entries_have_mean_0_and_std_1_and_the_rest_is_0():
    whitened = whiten(VALUES, COUNTS)
    live = whitened[COUNTS]
    torch.testing.assert_close(live, torch.tensor([-2.0, 0.0, 2.0]) / math.sqrt(8 / 3), rtol=1e-6, atol=1e-7)
    assert whitened[~COUNTS].tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=30), st.floats(-100, 100, width=32))
def test_whitening_ignores_a_shift_and_has_mean_0(numbers, shift):
    values = torch.tensor([numbers], dtype=torch.float64)
    counts = torch.ones_like(values, dtype=torch.bool)
    if values.std(correction=0) < 1e-3:
        return
    whitened = whiten(values, counts)
    assert abs(whitened.mean().item()) < 1e-6
    assert whitened.std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(whiten(values + shift, counts), whitened, rtol=1e-4, atol=1e-4)


def test_equal_float32_entries_whiten_to_0_although_a_float32_mean_would_miss_them():
    values = torch.full((1, 1000), 0.1)
    counts = torch.ones_like(values, dtype=torch.bool)
    assert whiten(values, counts).abs().max().item() < 1e-6
    assert torch.equal(whiten(values, counts, keep_mean=True), values)


def test_keep_mean_adds_the_mean_back():
    torch.testing.assert_close(
        whiten(VALUES, COUNTS, keep_mean=True)[COUNTS], whiten(VALUES, COUNTS)[COUNTS] + 3.0, rtol=1e-6, atol=1e-6
    )


def test_scaling_keeps_zero_at_zero_and_makes_the_std_1():
    values = torch.tensor([[0.0, 2.0, 4.0]])
    counts = torch.ones_like(values, dtype=torch.bool)
    scaled = scale_only(values, counts)
    torch.testing.assert_close(scaled, values / math.sqrt(8 / 3), rtol=1e-6, atol=0)


def test_equal_entries_have_no_scale_and_stay():
    equal = torch.full((1, 4), 0.3)
    assert torch.equal(scale_only(equal, torch.ones(1, 4, dtype=torch.bool)), equal)


def test_keep_mean_pays_for_length_when_masked_and_scale_only_does_not():
    # METHOD 5.2: equal scores of 1, on the last token of 28 responses of 3 to 30 tokens, one each: mean m = 28/462,
    # std s = sqrt(m (1 - m)) = .2386, so a response of L tokens gets 1/s + L m (1 - 1/s) = 4.191 - .1934 L
    lengths = torch.arange(3, 31)
    is_live = torch.arange(30)[None, :] < lengths[:, None]
    rewards = torch.zeros(is_live.shape)
    rewards[torch.arange(28), lengths - 1] = 1.0
    kept = whiten(rewards, is_live, keep_mean=True).sum(1)
    assert (kept[0].item(), kept[-1].item()) == (pytest.approx(3.611, abs=1e-3), pytest.approx(-1.611, abs=1e-3))
    assert scale_only(rewards, is_live).sum(1).std().item() == pytest.approx(0.0, abs=1e-6)
    unmasked = whiten(rewards, torch.ones_like(is_live), keep_mean=True).sum(1)
    assert unmasked.std().item() == pytest.approx(0.0, abs=1e-5)


def test_nothing_counts_gives_zeros_and_no_nan():
    none = torch.zeros_like(COUNTS)
    assert masked_mean(VALUES, none).item() == 0.0
    assert not whiten(VALUES, none).any()
    assert not scale_only(VALUES, none).any()


def test_no_gradient_passes_through_what_does_not_count():
    values = VALUES.clone().requires_grad_()
    masked_mean(values, COUNTS).backward()
    torch.testing.assert_close(values.grad, COUNTS.float() / 3, rtol=1e-6, atol=0)


def test_bfloat16_is_summed_in_full_precision():
    # 257 has no bfloat16: a bfloat16 sum of ones sticks at 256
    values = torch.ones(1, 300, dtype=torch.bfloat16)
    mean = masked_mean(values, torch.ones_like(values, dtype=torch.bool), denominator=1)
    assert mean.dtype == torch.float32
    assert mean.item() == 300.0


@pytest.mark.parametrize("counts", [torch.ones(2, 1, dtype=torch.bool), torch.ones(2, 3)])
def test_masks_that_would_broadcast_or_are_not_bool_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        zero_elsewhere(VALUES, counts)


def test_a_denominator_of_0_is_refused():
    with pytest.raises(ValueError, match="denominator"):
        masked_mean(VALUES, COUNTS, denominator=0)


def test_padding_counts_only_where_alpacafarm_is_wanted():
    assert torch.equal(counted(COUNTS, mask_padding=True), COUNTS)
    assert counted(COUNTS, mask_padding=False).all()
