import pytest
import torch
import torch.nn.functional as F

from rlp_engine.methods.multi_view_heads import Critic, ViewHeads

B, D, K = 8, 6, 4


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return ViewHeads(D, 16, K)


@pytest.fixture
def v_BD():
    torch.manual_seed(1)
    return torch.randn(B, D)


def test_heads_give_a_mean_and_a_positive_standard_deviation(heads, v_BD):
    mu, sigma = heads(v_BD)
    assert mu.shape == sigma.shape == (B, K)
    torch.testing.assert_close(sigma, F.softplus(heads.sigma(v_BD)) + 1e-7)
    with torch.no_grad():
        heads.sigma[-1].bias.fill_(-1e4)
    assert heads(v_BD)[1].min().item() == pytest.approx(1e-7)


def test_mu_and_sigma_share_nothing_and_have_three_layers(heads):
    assert [tuple(p.shape) for p in heads.mu.parameters()] == [(16, D), (16,), (16, 16), (16,), (K, 16), (K,)]
    assert not {id(p) for p in heads.mu.parameters()} & {id(p) for p in heads.sigma.parameters()}


def test_layer_norm_takes_the_scale_of_v_away(v_BD):
    heads = ViewHeads(D, 16, K, "layer-norm")
    torch.testing.assert_close(heads(100 * v_BD)[0], heads(v_BD)[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(heads(100 * v_BD)[0], heads(v_BD)[0])


def test_standardise_takes_the_common_vector_and_the_scale_of_each_dimension_away(v_BD):
    heads = ViewHeads(D, 16, K, "standardise")
    v = v_BD * torch.arange(1, D + 1) + 50
    heads.norm.fit(v)
    torch.testing.assert_close(heads.norm(v).mean(0), torch.zeros(D), rtol=0, atol=1e-4)
    torch.testing.assert_close(heads.norm(v).std(0, correction=0), torch.ones(D), rtol=1e-4, atol=0)
    # constants: another batch is moved by the same mean and scale, not by its own
    torch.testing.assert_close(
        heads.norm(v + 1) - heads.norm(v), (1 / heads.norm.std_D).expand_as(v), rtol=1e-3, atol=0
    )


def test_standardise_only_centres_a_dimension_that_never_varies():
    heads = ViewHeads(2, 4, 2, "standardise")
    heads.norm.fit(torch.tensor([[7.0, 1.0], [7.0, 3.0]]))
    assert heads.norm(torch.tensor([[8.0, 3.0]])).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("spread", [1e-33, 1e-9, 1e-5])
def test_standardise_does_not_blow_a_dead_dimension_up(spread):
    heads = ViewHeads(2, 4, 2, "standardise")
    v = torch.tensor([[0.0, 1.0], [spread, 3.0]], requires_grad=True)
    heads.norm.fit(v.detach())
    mu, sigma = heads(v)
    (mu.sum() + sigma.sum()).backward()
    assert heads.norm.std_D.tolist() == [1.0, 1.0]
    assert v.grad.abs().max() < 100


def test_the_critic_scores_the_concatenation_of_every_pair():
    torch.manual_seed(1)
    critic = Critic(3, 2, 16)
    left, right = torch.randn(4, 3), torch.randn(5, 2)
    scores = critic(left, right)
    assert scores.shape == (4, 5)
    for i in range(4):
        for j in range(5):
            wanted = critic.rest(critic.joint(torch.cat([left[i], right[j]])))[0]
            torch.testing.assert_close(scores[i, j], wanted, rtol=1e-5, atol=1e-6)


def test_the_critic_refuses_swapped_vectors():
    with pytest.raises(ValueError, match="widths 3 and 2, got 2 and 3"):
        Critic(3, 2, 8)(torch.zeros(4, 2), torch.zeros(4, 3))
