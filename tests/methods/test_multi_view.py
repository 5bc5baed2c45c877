import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from rlp_engine.methods.multi_view import (
    beta_at,
    choose_views,
    health_signs,
    multi_view_loss,
    reparameterised,
    within_share,
)
from rlp_engine.methods.multi_view_heads import Critic, ViewHeads
from rlp_engine.methods.mutual_information import (
    info_nce_loss,
    jensen_shannon_bound,
    negative_pairs,
    symmetrised_kl,
    symmetrised_kl_sample,
)

B, D, K = 8, 6, 4
OFF_DIAGONAL = ~torch.eye(B, dtype=torch.bool)
KINDS = ("uml", "mvi", "infomax", "cl")


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return {
        "heads": ViewHeads(D, 16, K),
        "critic": Critic(K, K, 16),
        "v1": torch.randn(B, D),
        "v2": torch.randn(B, D),
        "noise1": torch.randn(B, K),
        "noise2": torch.randn(B, K),
    }


def loss_of(kind, parts, beta=1.0, is_negative=OFF_DIAGONAL, **options):
    critic = Critic(D, K, 16) if kind == "infomax" else parts["critic"]
    return multi_view_loss(
        kind,
        parts["heads"],
        options.pop("critic", critic),
        parts["v1"],
        parts["v2"],
        is_negative,
        parts["noise1"],
        parts["noise2"],
        beta,
        **options,
    )


@pytest.mark.parametrize("skl", ["closed-form", "sample"])
@pytest.mark.parametrize("negatives", ["off-diagonal", "roll"])
def test_uml_is_minus_the_bound_plus_beta_skl(parts, skl, negatives):
    is_negative = negative_pairs(torch.arange(B), negatives)
    loss, diagnostics = loss_of("uml", parts, beta=0.3, skl=skl, is_negative=is_negative)
    (mu1, sigma1), (mu2, sigma2) = parts["heads"](parts["v1"]), parts["heads"](parts["v2"])
    z1, z2 = mu1 + sigma1 * parts["noise1"], mu2 + sigma2 * parts["noise2"]
    bound = jensen_shannon_bound(parts["critic"](z1, z2), is_negative)
    exact = symmetrised_kl(mu1, sigma1, mu2, sigma2)
    divergence = exact if skl == "closed-form" else symmetrised_kl_sample(mu1, sigma1, z1, mu2, sigma2, z2)
    torch.testing.assert_close(loss, -bound + 0.3 * divergence)
    torch.testing.assert_close(diagnostics["jsd"], bound.detach())
    torch.testing.assert_close(diagnostics["skl"], exact.detach())
    assert diagnostics["beta"].item() == pytest.approx(0.3)


def test_mvi_is_uml_at_beta_0_whatever_beta_it_is_given(parts):
    assert torch.equal(loss_of("mvi", parts, beta=5.0)[0], loss_of("uml", parts, beta=0.0)[0])


def test_infomax_averages_both_views_and_keeps_v_out_of_the_critic(parts):
    critic = Critic(D, K, 16)
    loss, _ = loss_of("infomax", parts, critic=critic)
    bounds = []
    for v, noise in ((parts["v1"], parts["noise1"]), (parts["v2"], parts["noise2"])):
        mu, sigma = parts["heads"](v)
        bounds.append(jensen_shannon_bound(critic(v, mu + sigma * noise), OFF_DIAGONAL))
    torch.testing.assert_close(loss, -(bounds[0] + bounds[1]) / 2)

    v1 = parts["v1"].requires_grad_()
    with torch.no_grad():  # mu and sigma say nothing about v: all that is left is the critic's own view of v
        for network in (parts["heads"].mu, parts["heads"].sigma):
            network[0].weight.zero_()
    loss_of("infomax", parts, critic=critic)[0].backward()
    assert not v1.grad.any()


def test_cl_is_info_nce_of_the_cosines_and_reads_neither_noise_nor_critic(parts):
    loss, diagnostics = loss_of("cl", parts, critic=None, temperature=0.5)
    mu1, mu2 = parts["heads"](parts["v1"])[0], parts["heads"](parts["v2"])[0]
    cosines = F.cosine_similarity(mu1[:, None, :], mu2[None, :, :], dim=2)
    torch.testing.assert_close(loss, info_nce_loss(cosines / 0.5, OFF_DIAGONAL))
    assert "jsd" not in diagnostics
    parts["noise1"] = parts["noise1"] + 1.0
    assert torch.equal(loss_of("cl", parts, critic=None, temperature=0.5)[0], loss)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_v_and_diagnostics_carry_none(parts, kind):
    v1, v2 = parts["v1"].requires_grad_(), parts["v2"].requires_grad_()
    loss, diagnostics = loss_of(kind, parts)
    loss.backward()
    assert v1.grad.abs().sum() > 0
    assert v2.grad.abs().sum() > 0
    assert not any(value.requires_grad for value in diagnostics.values())
    assert all(value.ndim == 0 and value.isfinite() for value in diagnostics.values())


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_views_that_agree_lowers_the_loss(kind):
    torch.manual_seed(2)
    shared = torch.randn(16, D)
    v1, v2 = shared + 0.1 * torch.randn(16, D), shared + 0.1 * torch.randn(16, D)
    heads, critic = ViewHeads(D, 32, K), Critic(D if kind == "infomax" else K, K, 32)
    optimizer = torch.optim.Adam([*heads.parameters(), *critic.parameters()], lr=3e-3)
    losses = []
    is_negative = negative_pairs(torch.arange(16))
    for _ in range(150):
        noise = torch.randn(2, 16, K)
        loss, _ = multi_view_loss(kind, heads, critic, v1, v2, is_negative, noise[0], noise[1], 1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_instruction_do_not_repel(parts, kind):
    critic = Critic(D if kind == "infomax" else K, K, 16)
    apart = loss_of(kind, parts, critic=critic)[0]
    is_negative = negative_pairs(torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    together = loss_of(kind, parts, critic=critic, is_negative=is_negative)[0]
    assert apart.item() != together.item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_v_is_worked_on_in_float32_under_autocast_too(parts, kind, autocast):
    parts["v1"], parts["v2"] = parts["v1"].bfloat16(), parts["v2"].bfloat16()
    critic = Critic(D if kind == "infomax" else K, K, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, _ = loss_of(kind, parts, critic=critic)
    parts["v1"], parts["v2"] = parts["v1"].float(), parts["v2"].float()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(kind, parts, critic=critic)[0], rtol=1e-6, atol=1e-7)


def test_refusals(parts):
    with pytest.raises(ValueError, match="no negatives"):
        loss_of("uml", parts, is_negative=torch.zeros(B, B, dtype=torch.bool))
    with pytest.raises(ValueError, match="a negative or not for 8 x 8"):
        loss_of("uml", parts, is_negative=OFF_DIAGONAL[1:, 1:])
    with pytest.raises(ValueError, match="needs a critic"):
        loss_of("mvi", parts, critic=None)
    with pytest.raises(ValueError, match="unknown kind 'vib'"):
        loss_of("vib", parts)
    with pytest.raises(ValueError, match="skl 'monte-carlo'"):
        loss_of("uml", parts, skl="monte-carlo")
    with pytest.raises(ValueError, match="beta"):
        loss_of("uml", parts, beta=-1.0)
    with pytest.raises(ValueError, match="temperature"):
        loss_of("cl", parts, temperature=0.0)
    with pytest.raises(ValueError, match="one shape"):
        loss_of("uml", {**parts, "v2": parts["v2"][:1]})
    with pytest.raises(ValueError, match="one shape"):
        loss_of("uml", {**parts, "noise1": parts["noise1"][:1]})


def test_z_is_mu_plus_sigma_noise():
    z = reparameterised(torch.tensor([[1.0]]), torch.tensor([[0.5]]), torch.tensor([[-2.0]], dtype=torch.float64))
    assert z.dtype == torch.float32
    assert z.item() == 0.0


def test_beta_goes_log_linearly_and_then_stays():
    betas = [beta_at(step, 100, 1e-3, 1.0, 0.5) for step in (1, 26, 51, 52, 100)]
    assert betas == pytest.approx([1e-3, 10**-1.5, 1.0, 1.0, 1.0], rel=1e-9)


def test_no_ramp_means_the_end_from_the_first_step_and_an_end_of_0_is_reached():
    assert beta_at(1, 100, 1e-3, 1.0, 0.0) == 1.0
    assert beta_at(1, 1, 1e-3, 1.0, 1.0) == pytest.approx(1e-3, rel=1e-12)
    assert [beta_at(step, 4, 1e-3, 0.0, 0.5) for step in (1, 2, 3)] == pytest.approx([1e-3, 5e-4, 0.0])


@pytest.mark.parametrize("step", [0, 101])
def test_steps_out_of_range_are_refused(step):
    with pytest.raises(ValueError, match="out of range"):
        beta_at(step, 100)


@pytest.mark.parametrize(
    ("jsd", "skl", "signs"),
    [(-1.386, 0.001, (1, 0)), (-0.5, 0.15, (0, 0)), (-0.001, 50.0, (0, 1)), (-1.386, 2.0, (0, 0))],
)
def test_signs_of_collapse_and_of_no_compression(jsd, skl, signs):
    got = health_signs(torch.tensor(jsd), torch.tensor(skl))
    assert (got["collapsed"].item(), got["uncompressed"].item()) == signs


def test_collapsed_heads_are_called_collapsed(parts):
    with torch.no_grad():
        for layer in (parts["heads"].mu[-1], parts["heads"].sigma[-1], parts["critic"].rest[-1]):
            layer.weight.zero_()
        parts["critic"].rest[-1].bias.zero_()
    loss, diagnostics = loss_of("uml", parts)
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert diagnostics["collapsed"].item() == 1.0
    assert diagnostics["mu_within_share"].item() == 0.0


def test_within_share_is_0_for_twins_and_1_for_views_that_have_nothing_in_common():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2000, 5, generator=generator)
    assert within_share(first, first).item() == 0.0
    assert within_share(first, second).item() > 0.95
    # common part of variance 1, own part of variance 1/4
    assert within_share(first + 0.5 * second, first + 0.5 * second.flip(0)).item() == pytest.approx(0.2, abs=0.02)
    assert within_share(first[:1], second[:1]).item() == 0.0


def test_views_are_uniform_over_ordered_pairs_of_different_texts():
    texts = ["a", "b", "a"]
    counts = Counter(choose_views(texts, i / 400) for i in range(400))
    assert counts == {(0, 1): 100, (1, 0): 100, (1, 2): 100, (2, 1): 100}


def test_no_views_where_all_texts_are_equal():
    assert choose_views(["a", "a"], 0.5) is None
    assert choose_views(["a"], 0.5) is None


def test_the_largest_draw_below_1_is_still_a_pair_and_1_is_refused():
    texts = [str(i) for i in range(10)]
    assert choose_views(texts, math.nextafter(1.0, 0.0)) == (9, 8)
    with pytest.raises(ValueError, match="draw"):
        choose_views(texts, 1.0)


def test_the_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        within_share(torch.zeros(0, 2), torch.zeros(0, 2))
