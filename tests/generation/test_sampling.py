import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rlp_engine.generation.sampling import BLOCK, _first_above, choose_tokens, invert, nucleus
from rlp_engine.randomness import uniforms


def uniform(values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_token_is_the_first_whose_cumulative_probability_exceeds_u():
    weights = torch.tensor([[0.25, 0.0, 0.5, 0.25]]).repeat(6, 1)
    tokens = invert(weights, uniform([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53]))
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]


def test_weights_need_not_sum_to_one():
    weights = torch.tensor([[0.0, 3.0, 1.0]]).repeat(3, 1)
    assert invert(weights, uniform([0.0, 0.74, 0.76])).tolist() == [1, 1, 2]


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_the_search_by_blocks_finds_what_a_plain_search_finds(size):
    generator = torch.Generator().manual_seed(size)
    weights = torch.rand(200, size, generator=generator).pow(8)
    weights[torch.rand(200, size, generator=generator) < 0.3] = 0.0
    weights[:, 0] += 1e-6  # no row is all 0
    u = torch.rand(200, generator=generator, dtype=torch.float64)
    upto = weights.double().cumsum(dim=-1)
    plain = torch.searchsorted(upto, u[:, None] * upto[:, -1:], right=True).squeeze(-1)
    assert torch.equal(invert(weights, u), plain)


def test_a_token_of_probability_0_is_never_chosen_at_the_ends():
    weights = torch.zeros(2, 3 * BLOCK)
    weights[:, BLOCK + 7] = 0.1
    weights[:, BLOCK + 9] = 1e-30
    assert invert(weights, uniform([0.0, 1 - 2**-53])).tolist() == [BLOCK + 7, BLOCK + 7]


def test_a_target_rounded_up_to_the_sum_finds_the_last_token_with_a_weight():
    upto = uniform([[0.5, 0.5, 1.0, 1.0, 1.0]])
    assert _first_above(upto, uniform([[1.0]])).item() == 2


def test_a_row_does_not_depend_on_the_others():
    logits = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    u = torch.rand(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together, _ = choose_tokens(logits, u, temperature=0.7, top_p=0.9)
    alone = [choose_tokens(logits[i : i + 1], u[i : i + 1], temperature=0.7, top_p=0.9)[0] for i in range(8)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    draws = 20_000
    u = torch.from_numpy(uniforms(draws, "chi-square", str(temperature)))
    tokens, _ = choose_tokens(logits.expand(draws, -1), u, temperature=temperature, top_p=1.0)
    counts = torch.bincount(tokens, minlength=5).numpy()
    expected = draws * (logits.double() / temperature).softmax(dim=-1).numpy()
    assert chisquare(counts, expected).pvalue > 0.01  # fixed keys: the same value on every run
    wrong = draws * logits.double().softmax(dim=-1).numpy()
    assert temperature == 1.0 or chisquare(counts, wrong).pvalue < 1e-6  # and the test could fail


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    probabilities = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert nucleus(probabilities, 0.6).gt(0).tolist() == [[False, True, False, True]]
    assert nucleus(probabilities, 0.71).gt(0).tolist() == [[False, True, True, True]]
    assert nucleus(probabilities, 1e-9).gt(0).tolist() == [[False, True, False, False]]
    assert nucleus(probabilities, 0.9999).tolist() == probabilities.tolist()


def test_top_p_draws_from_the_nucleus_in_proportion():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    u = torch.from_numpy((np.arange(700) + 0.5) / 700)
    tokens, _ = choose_tokens(logits.expand(700, -1), u, temperature=1.0, top_p=0.6)
    assert torch.bincount(tokens, minlength=4).tolist() == [0, 400, 0, 300]


def test_the_logprob_is_at_the_temperature_and_before_top_p():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    token, logprob = choose_tokens(logits, uniform([0.1]), temperature=1.0, top_p=0.6)
    assert (token.item(), logprob.item()) == (1, pytest.approx(math.log(0.4), abs=1e-6))
    token, logprob = choose_tokens(logits, uniform([0.3]), temperature=0.5, top_p=1.0)
    # at T = 1/2 the weights are the squares: 0.01, 0.16, 0.04, 0.09 of 0.30
    assert (token.item(), logprob.item()) == (1, pytest.approx(math.log(0.16 / 0.30), abs=1e-6))


def test_temperature_0_takes_the_likeliest_whatever_u():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]]).repeat(2, 1)
    tokens, logprobs = choose_tokens(logits, uniform([0.0, 0.999]), temperature=0.0, top_p=0.5)
    assert tokens.tolist() == [1, 1]
    assert logprobs[0].item() == pytest.approx(3 - math.log(1 + 2 * math.e**3 + math.e), abs=1e-6)


def test_forbidden_tokens_and_bfloat16_logits_work():
    logits = torch.full((1, 70), -math.inf, dtype=torch.bfloat16)
    logits[0, 68] = 5.0
    token, logprob = choose_tokens(logits, uniform([0.999]), temperature=1.0, top_p=0.9)
    assert (token.item(), logprob.item()) == (68, 0.0)
    assert logprob.dtype == torch.float32
