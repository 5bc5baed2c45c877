"""Equal results whatever padding holds, on which side it lies, which rows share a batch and how a minibatch is cut.

The same of models: tests/models/test_reward.py, test_value.py, tests/generation/test_logprobs.py, tests/semantics.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlp_engine.methods import gae, kl, masked, ppo_loss
from rlp_engine.methods.bradley_terry import bradley_terry_loss

T = 6
JUNK = (math.nan, math.inf, -7e30)


class Batch(NamedTuple):
    """What PPO reads, (B, T) each but the scores; live tokens first."""

    live: Tensor
    logprobs: Tensor
    old: Tensor
    reference: Tensor
    values: Tensor
    old_values: Tensor
    scores: Tensor


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    lengths = draw(st.lists(st.integers(0, T), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = torch.randn((5, len(lengths), T), generator=generator)
    live = torch.arange(T)[None, :] < torch.tensor(lengths)[:, None]
    return Batch(live, *(rows[:3] - 2.0), *rows[3:], torch.randn(len(lengths), generator=generator))


def spoiled(batch: Batch, extra: int = 0) -> Batch:
    """The same rows with `extra` more columns of padding, and all padding full of junk."""

    def more(values_BT: Tensor, fill: float) -> Tensor:
        if values_BT.ndim == 1:
            return values_BT
        wide = torch.full((len(values_BT), T + extra), fill, dtype=values_BT.dtype)
        wide[:, :T] = values_BT
        return wide

    live = more(batch.live, False)
    others = [more(values, 0.0) for values in batch[1:]]
    for number, values in enumerate(others):
        if values.ndim == 2:
            values[~live] = JUNK[number % len(JUNK)]
    return Batch(live, *others)


def learned(batch: Batch) -> dict[str, Tensor]:
    """Everything between the models and the two losses."""
    live = batch.live
    kl_BT = kl.per_token_kl(batch.old, batch.reference, live)
    rewards_BT = gae.token_rewards(kl_BT, batch.scores, live, 0.1)
    scaled_BT = gae.whiten_rewards(rewards_BT, live, "scale")
    raw_BT, returns_BT = gae.advantages(scaled_BT, batch.old_values, live, 0.99, 0.95)
    advantages_BT = masked.whiten(raw_BT, live)
    return {"rewards": scaled_BT, "advantages": advantages_BT, "returns": returns_BT, "kl": kl_BT}


def losses(batch: Batch, found: dict[str, Tensor], rows: list[int], denominator: float | None) -> Tensor:
    pick = [values[rows] for values in (batch.logprobs, batch.old, found["advantages"], batch.live)]
    policy, _ = ppo_loss.policy_loss(*pick, denominator=denominator)
    pick = [values[rows] for values in (batch.values, batch.old_values, found["returns"], batch.live)]
    value, _ = ppo_loss.value_loss(*pick, denominator=denominator)
    return torch.stack([policy, value])


def all_rows(batch: Batch) -> list[int]:
    return list(range(len(batch.live)))


@settings(max_examples=60, deadline=None)
@given(batches(), st.integers(0, 4))
def test_what_padding_holds_and_how_wide_it_is_changes_nothing(batch: Batch, extra: int) -> None:
    clean, other = learned(batch), learned(spoiled(batch, extra))
    for name, values_BT in clean.items():
        torch.testing.assert_close(other[name][:, :T], values_BT, rtol=0, atol=1e-6)
        assert not other[name][~spoiled(batch, extra).live].any()
    torch.testing.assert_close(
        losses(spoiled(batch, extra), other, all_rows(batch), None),
        losses(batch, clean, all_rows(batch), None),
        rtol=1e-5,
        atol=1e-6,
    )


@settings(max_examples=60, deadline=None)
@given(batches(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_order_of_rows_and_the_microbatch_change_nothing(batch: Batch, random: object, size: int) -> None:
    order = all_rows(batch)
    random.shuffle(order)
    shuffled = Batch(*(values[order] for values in batch))
    clean, other = learned(batch), learned(shuffled)
    for name, values_BT in clean.items():
        torch.testing.assert_close(other[name], values_BT[order], rtol=0, atol=2e-6)
    whole = losses(batch, clean, all_rows(batch), None)
    denominator = ppo_loss.num_counted(batch.live)
    parts = [all_rows(batch)[i : i + size] for i in range(0, len(order), size)]
    shares = sum(losses(shuffled, other, rows, denominator) for rows in parts)
    torch.testing.assert_close(shares, whole, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(batches(), st.data())
def test_token_rewards_and_unwhitened_advantages_of_a_row_do_not_depend_on_the_others(
    batch: Batch, data: st.DataObject
) -> None:
    row = data.draw(st.sampled_from(all_rows(batch)))
    alone = Batch(*(values[row : row + 1] for values in batch))

    def raw(one: Batch) -> tuple[Tensor, ...]:
        rewards_BT = gae.token_rewards(
            kl.per_token_kl(one.old, one.reference, one.live, "k3"), one.scores, one.live, 0.1
        )
        return rewards_BT, *gae.advantages(rewards_BT, one.old_values, one.live, 1.0, 0.9)

    for together, single in zip(raw(batch), raw(alone), strict=True):
        torch.testing.assert_close(together[row : row + 1], single, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(batches())
@pytest.mark.parametrize("statistic", [masked.masked_mean, masked.whiten, masked.scale_only])
def test_masked_statistics_do_not_care_on_which_side_padding_lies(statistic: object, batch: Batch) -> None:
    values, live = spoiled(batch).logprobs, batch.live
    right, left = statistic(values, live), statistic(values.flip(1), live.flip(1))
    if right.ndim == 2:
        left = left.flip(1)
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12), st.integers(1, 5))
def test_bradley_terry_is_the_same_in_any_order_and_any_microbatch(rewards: list[float], size: int) -> None:
    chosen, rejected = torch.tensor(rewards), torch.tensor(rewards[::-1]) / 2
    whole = bradley_terry_loss(chosen, rejected)
    shares = [
        bradley_terry_loss(chosen[i : i + size], rejected[i : i + size], denominator=len(rewards))
        for i in range(0, len(rewards), size)
    ]
    torch.testing.assert_close(sum(shares), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bradley_terry_loss(chosen.flip(0), rejected.flip(0)), whole, rtol=1e-5, atol=1e-6)
