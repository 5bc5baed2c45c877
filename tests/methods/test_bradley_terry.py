import math

import pytest
import torch

from rlp_engine.methods.bradley_terry import bradley_terry_loss, pair_accuracy


def test_matches_numbers_worked_by_hand():
    # r+ - r- = ln 3  ->  sigmoid = 3/4  ->  loss = ln(4/3);   r+ - r- = 0  ->  ln 2
    loss = bradley_terry_loss(torch.tensor([math.log(3.0), 5.0]), torch.tensor([0.0, 5.0]))
    torch.testing.assert_close(loss, torch.tensor((math.log(4 / 3) + math.log(2)) / 2), rtol=1e-6, atol=0)


def test_adding_a_constant_to_all_rewards_changes_nothing():
    chosen, rejected = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(
        bradley_terry_loss(chosen + 128, rejected + 128), bradley_terry_loss(chosen, rejected), rtol=1e-6, atol=0
    )


def test_an_undecided_pair_is_pushed_apart():
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    bradley_terry_loss(chosen, rejected).backward()
    assert (chosen.grad.item(), rejected.grad.item()) == (-0.5, 0.5)


def test_finite_at_a_difference_of_20000_either_way():
    chosen = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = bradley_terry_loss(chosen, -chosen.detach())
    loss.backward()
    assert loss.item() == 10_000.0
    assert chosen.grad.tolist() == [0.0, -0.5]


def test_a_weight_of_0_does_not_count_and_equal_weights_do_nothing():
    chosen, rejected = torch.tensor([1.0, 2.0, -9.0]), torch.tensor([0.0, 3.0, 9.0])
    without = bradley_terry_loss(chosen[:2], rejected[:2])
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected, torch.tensor([3.0, 3.0, 0.0])), without)


def test_microbatches_add_up_to_the_minibatch():
    chosen, rejected, weight = (
        torch.tensor([1.0, 2.0, -9.0]),
        torch.tensor([0.0, 3.0, 9.0]),
        torch.tensor([1.0, 0.5, 2]),
    )
    for weights, total in ((weight, 3.5), (None, 3)):
        parts = [
            bradley_terry_loss(chosen[s], rejected[s], None if weights is None else weights[s], denominator=total)
            for s in (slice(0, 2), slice(2, 3))
        ]
        torch.testing.assert_close(sum(parts), bradley_terry_loss(chosen, rejected, weights))


def test_bfloat16_rewards_are_subtracted_in_float32():
    loss = bradley_terry_loss(torch.tensor([1.0078125]).bfloat16(), torch.tensor([100.0]).bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(98.9921875, rel=1e-6)  # 99 in bfloat16


def test_accuracy_counts_a_tie_as_one_half():
    assert pair_accuracy(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 2.0, 4.0, -1.0])).item() == 0.625


@pytest.mark.parametrize("other", [torch.zeros(3, 1), torch.zeros(1), torch.zeros(())])
def test_shapes_that_would_broadcast_are_refused(other):
    with pytest.raises(ValueError, match="one shape"):
        bradley_terry_loss(torch.zeros(3), other)
    with pytest.raises(ValueError, match="one shape"):
        pair_accuracy(torch.zeros(3), other)
    with pytest.raises(ValueError, match="one shape"):
        bradley_terry_loss(torch.zeros(3), torch.zeros(3), other)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -0.5], [1.0, math.nan], [1.0, math.inf]])
def test_weights_that_are_all_0_negative_or_not_finite_are_refused(weights):
    with pytest.raises(ValueError, match="weights must"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(2), torch.tensor(weights))


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        bradley_terry_loss(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="no pairs"):
        pair_accuracy(torch.zeros(0), torch.zeros(0))
