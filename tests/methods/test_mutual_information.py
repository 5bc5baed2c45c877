import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from rlp_engine.methods.mutual_information import (
    info_nce_loss,
    jensen_shannon_bound,
    negative_pairs,
    nwj_bound,
    symmetrised_kl,
    symmetrised_kl_sample,
)

FOUR = torch.arange(4)


def softplus(x):
    return math.log1p(math.exp(x))


def gaussian(mu, sigma):
    return Independent(Normal(mu, sigma), 1)


def test_all_off_diagonal_pairs_are_negatives():
    assert negative_pairs(FOUR).int().tolist() == (1 - torch.eye(4, dtype=torch.int)).tolist()


def test_roll_pairs_each_right_row_with_the_left_row_before_it():
    is_negative = negative_pairs(torch.arange(3), "roll")
    assert is_negative.nonzero().tolist() == [[0, 1], [1, 2], [2, 0]]


def test_rows_of_one_instruction_are_never_negatives():
    group = torch.tensor([7, 7, 9])
    assert negative_pairs(group).nonzero().tolist() == [[0, 2], [1, 2], [2, 0], [2, 1]]
    assert negative_pairs(group, "roll").nonzero().tolist() == [[1, 2], [2, 0]]


def test_views_of_two_instructions_are_negatives_of_neither_and_the_diagonal_never_is():
    left, right = torch.tensor([1, 2, 3]), torch.tensor([2, 3, 1])
    assert negative_pairs(left, right_group_B=right).nonzero().tolist() == [[0, 1], [1, 2], [2, 0]]


def test_only_rows_of_one_stratum_are_negatives():
    stratum = torch.tensor([0, 0, 1, 1])
    assert negative_pairs(FOUR, stratum_B=stratum).nonzero().tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    with pytest.raises(ValueError, match="no negatives"):
        negative_pairs(FOUR, stratum_B=FOUR)


@pytest.mark.parametrize("group", [[3], [3, 3, 3]])
@pytest.mark.parametrize("scheme", ["off-diagonal", "roll"])
def test_a_batch_without_negatives_is_refused(group, scheme):
    with pytest.raises(ValueError, match="no negatives"):
        negative_pairs(torch.tensor(group), scheme)


def test_bad_groups_and_schemes_are_refused():
    with pytest.raises(ValueError, match="integer ids"):
        negative_pairs(torch.zeros(3))
    with pytest.raises(ValueError, match="integer ids"):
        negative_pairs(torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="integer ids"):
        negative_pairs(FOUR, right_group_B=FOUR[:3])
    with pytest.raises(ValueError, match="integer ids"):
        negative_pairs(FOUR, stratum_B=FOUR.float())
    with pytest.raises(ValueError, match="unknown scheme"):
        negative_pairs(FOUR, "shuffle")


def test_jensen_shannon_worked_by_hand():
    scores = torch.tensor([[2.0, 0.5], [-1.0, 3.0]])
    wanted = -(softplus(-2) + softplus(-3)) / 2 - (softplus(0.5) + softplus(-1)) / 2
    assert jensen_shannon_bound(scores, negative_pairs(FOUR[:2])).item() == pytest.approx(wanted, rel=1e-6)


def test_roll_reads_its_own_entries_of_the_matrix():
    scores = torch.zeros(3, 3)
    scores[0, 1] = 4.0  # left 0 with right 1: a roll negative
    scores[1, 0] = 50.0  # not one
    wanted = -math.log(2) - (softplus(4) + 2 * math.log(2)) / 3
    assert jensen_shannon_bound(scores, negative_pairs(torch.arange(3), "roll")).item() == pytest.approx(wanted)


def test_a_critic_that_says_0_gives_minus_2_ln_2():
    assert jensen_shannon_bound(torch.zeros(4, 4), negative_pairs(FOUR)).item() == pytest.approx(-2 * math.log(2))


def test_jensen_shannon_pulls_positives_up_and_negatives_down_and_skips_false_negatives():
    scores = torch.zeros(3, 3, requires_grad=True)
    jensen_shannon_bound(scores, negative_pairs(torch.tensor([0, 0, 1]))).backward()
    wanted = torch.tensor([[1 / 6, 0.0, -1 / 8], [0.0, 1 / 6, -1 / 8], [-1 / 8, -1 / 8, 1 / 6]])
    torch.testing.assert_close(scores.grad, wanted)


def test_jensen_shannon_is_never_above_0_and_stays_finite():
    perfect = torch.full((2, 2), -1e4).fill_diagonal_(1e4).requires_grad_()
    bound = jensen_shannon_bound(perfect, negative_pairs(FOUR[:2]))
    assert bound.item() == 0.0
    worst = jensen_shannon_bound(-perfect, negative_pairs(FOUR[:2]))
    worst.backward()
    assert worst.item() == -2e4
    assert perfect.grad.isfinite().all()


@pytest.mark.parametrize(
    ("rho", "twice_jsd", "information"), [(0.3, 0.0238, 0.0472), (0.8, 0.2673, 0.5108), (0.95, 0.5841, 1.1640)]
)
def test_the_best_critic_reaches_twice_the_divergence_of_method_2_2(rho, twice_jsd, information):
    """T* = log density ratio of a correlated Gaussian pair, on 2000 pairs and their 4M off-diagonal ones."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(2000, generator=generator, dtype=torch.float64)
    right = rho * left + math.sqrt(1 - rho**2) * torch.randn(2000, generator=generator, dtype=torch.float64)
    quadratic = rho**2 * (left[:, None] ** 2 + right[None, :] ** 2) - 2 * rho * left[:, None] * right[None, :]
    scores = -0.5 * math.log(1 - rho**2) - quadratic / (2 * (1 - rho**2))
    is_negative = negative_pairs(torch.arange(2000))
    bound = jensen_shannon_bound(scores, is_negative).item() + 2 * math.log(2)
    assert bound == pytest.approx(twice_jsd, abs=0.02)  # standard error about .007
    assert nwj_bound(scores, is_negative).item() == pytest.approx(information, abs=0.06)  # about .02


def test_nwj_worked_by_hand_and_without_gradient():
    scores = torch.tensor([[2.0, 0.0], [math.log(3.0), 4.0]], requires_grad=True)
    bound = nwj_bound(scores, negative_pairs(FOUR[:2]))
    assert bound.item() == pytest.approx(3.0 + 1.0 - 2.0, rel=1e-6)
    assert not bound.requires_grad


def test_nwj_stays_finite_where_exp_overflows():
    assert nwj_bound(torch.full((2, 2), 1e6), negative_pairs(FOUR[:2])).isfinite()


def test_info_nce_is_ln_b_for_uninformative_scores_and_0_for_perfect_ones():
    assert info_nce_loss(torch.zeros(4, 4), negative_pairs(FOUR)).item() == pytest.approx(math.log(4))
    perfect = torch.full((4, 4), -1e4).fill_diagonal_(1e4)
    assert info_nce_loss(perfect, negative_pairs(FOUR)).item() == 0.0
    assert info_nce_loss(-perfect, negative_pairs(FOUR)).isfinite()


def test_info_nce_worked_by_hand_in_both_directions():
    scores = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    rows = (softplus(1) + softplus(-3)) / 2
    columns = (softplus(-1) + softplus(-1)) / 2
    assert info_nce_loss(scores, negative_pairs(FOUR[:2])).item() == pytest.approx((rows + columns) / 2, rel=1e-6)


def test_info_nce_leaves_false_negatives_out():
    scores = torch.zeros(3, 3, requires_grad=True)
    loss = info_nce_loss(scores, negative_pairs(torch.tensor([0, 0, 1])))
    assert loss.item() == pytest.approx((2 * math.log(2) + math.log(3)) / 3, rel=1e-6)
    loss.backward()
    assert scores.grad[0, 1] == scores.grad[1, 0] == 0.0
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("bound", [jensen_shannon_bound, nwj_bound, info_nce_loss])
def test_matrices_that_do_not_fit_are_refused(bound):
    with pytest.raises(ValueError, match="one shape"):
        bound(torch.zeros(4, 4), negative_pairs(FOUR)[:1])
    with pytest.raises(ValueError, match="square"):
        bound(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="diagonal"):
        bound(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="no negatives"):
        bound(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be bool"):
        bound(torch.zeros(2, 2), torch.zeros(2, 2))


def test_skl_is_the_symmetrised_kl_of_torch():
    generator = torch.Generator().manual_seed(0)
    mu1, mu2 = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    sigma1, sigma2 = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64) + 0.1
    p1, p2 = gaussian(mu1, sigma1), gaussian(mu2, sigma2)
    wanted = ((kl_divergence(p1, p2) + kl_divergence(p2, p1)) / 2).mean()
    torch.testing.assert_close(symmetrised_kl(mu1, sigma1, mu2, sigma2), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(symmetrised_kl(mu2, sigma2, mu1, sigma1), wanted, rtol=1e-12, atol=0)


def test_skl_worked_by_hand_and_summed_over_dimensions():
    # s1 = 1, s2 = 2, gap 2: 1/4 [(1/2 - 2)^2 + 4 + 1] = 1.8125, in each of 3 dimensions
    ones = torch.ones(2, 3)
    assert symmetrised_kl(2 * ones, ones, 0 * ones, 2 * ones).item() == pytest.approx(3 * 1.8125, rel=1e-6)
    assert symmetrised_kl(ones, ones, ones, ones).item() == 0.0


def test_skl_gradients_are_those_of_method_2_2():
    mu1, sigma1 = torch.tensor([[2.0]], requires_grad=True), torch.tensor([[0.5]], requires_grad=True)
    symmetrised_kl(mu1, sigma1, torch.tensor([[1.0]]), torch.tensor([[2.0]])).backward()
    assert mu1.grad.item() == pytest.approx(0.5 * 1.0 * (1 / 0.25 + 1 / 4), rel=1e-6)
    assert sigma1.grad.item() == pytest.approx(0.5 * (0.5 / 4 - (4 + 1) / 0.125), rel=1e-6)


def test_skl_is_finite_at_the_sigma_floor_and_exact_for_tiny_gaps():
    floor = torch.full((1, 1), 1e-7, requires_grad=True)
    skl = symmetrised_kl(torch.ones(1, 1), floor, torch.zeros(1, 1), torch.ones(1, 1))
    skl.backward()
    assert skl.isfinite()
    assert floor.grad.isfinite().all()
    tiny = symmetrised_kl(torch.full((1, 1), 1e-6), torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1))
    assert tiny.item() == pytest.approx(0.5e-12, rel=1e-5, abs=0)  # log densities of about 1 would leave nothing of it


def test_one_sample_skl_is_the_difference_of_log_densities():
    generator = torch.Generator().manual_seed(1)
    mu1, mu2, z1, z2 = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    sigma1, sigma2 = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64) + 0.1
    p1, p2 = gaussian(mu1, sigma1), gaussian(mu2, sigma2)
    wanted = (p1.log_prob(z1) - p2.log_prob(z1) + p2.log_prob(z2) - p1.log_prob(z2)).mean() / 2
    torch.testing.assert_close(symmetrised_kl_sample(mu1, sigma1, z1, mu2, sigma2, z2), wanted, rtol=1e-10, atol=0)


def test_one_sample_skl_has_the_closed_form_as_its_mean():
    generator = torch.Generator().manual_seed(2)
    mu1, sigma1, mu2, sigma2 = 0.5, 1.0, 0.0, 1.5
    noise1, noise2 = torch.randn(2, 100_000, 1, generator=generator, dtype=torch.float64)
    full = [torch.full((100_000, 1), x, dtype=torch.float64) for x in (mu1, sigma1, mu2, sigma2)]
    sampled = symmetrised_kl_sample(full[0], full[1], mu1 + sigma1 * noise1, full[2], full[3], mu2 + sigma2 * noise2)
    assert sampled.item() == pytest.approx(symmetrised_kl(*full).item(), abs=0.02)  # standard error about .003


def test_skl_refuses_shapes_that_would_broadcast():
    ones = torch.ones(2, 3)
    with pytest.raises(ValueError, match="one shape"):
        symmetrised_kl(ones, ones, ones, torch.ones(3))
    with pytest.raises(ValueError, match="one shape"):
        symmetrised_kl_sample(ones, ones, torch.ones(1, 3), ones, ones, ones)


def test_bfloat16_gaussians_are_handled_in_float32():
    mu = torch.tensor([[256.0]]).bfloat16()
    other = torch.tensor([[0.5078125]]).bfloat16()
    one = torch.ones(1, 1).bfloat16()
    assert symmetrised_kl(mu, one, other, one).item() == pytest.approx((256 - 0.5078125) ** 2 / 2, rel=1e-6)
