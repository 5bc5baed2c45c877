"""The test that answers are drawn from a model: silent when they are, loud when they are not."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlp_engine.generation.conformity import Evidence, _moments, evidence
from rlp_engine.generation.native import Request, Sampling, generate


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, initializer_range=0.6, **sizes)).eval()


def of_samples(drawn_from: LlamaForCausalLM, claimed: LlamaForCausalLM, drawn_at: tuple[float, float]) -> Evidence:
    """Of 48 answers that are said to be `claimed`'s at temperature 0.8, top_p 0.9."""
    temperature, top_p = drawn_at
    sampling = Sampling(temperature, top_p, max_new_tokens=24, eos_ids=[1], pad_id=0)
    requests = [Request([5, 7, 9], ("seed", draw)) for draw in range(48)]
    total = Evidence()
    for answer in generate(drawn_from, requests, sampling, rows=48):
        total.add(evidence(claimed, [5, 7, 9], answer.token_ids, temperature=0.8, top_p=0.9))
    return total


def test_own_samples_are_unremarkable_and_others_are_not():
    own, other = model(1), model(2)
    honest = of_samples(own, own, (0.8, 0.9))
    assert honest.tokens > 100
    assert abs(honest.z) < 4
    assert not honest.speaks_against
    another_model, greedy, hotter = (
        of_samples(other, own, (0.8, 0.9)),
        of_samples(own, own, (0.0, 1.0)),
        of_samples(own, own, (1.6, 1.0)),
    )
    assert another_model.speaks_against
    assert another_model.z < 0
    assert greedy.speaks_against
    assert greedy.z > 0
    assert hotter.speaks_against
    assert hotter.z < 0


def test_one_position_by_hand():
    # q = (0.75, 0.25): the token of 0.25 has log q + H(q) = ln 0.25 + 0.5623 = -0.8240.
    logits = torch.tensor([[math.log(3.0), 0.0]])
    surprise, variance = _moments(logits, torch.tensor([1]), 1.0, 1.0)
    assert surprise.item() == pytest.approx(-0.8240, abs=1e-4)
    assert variance.item() == pytest.approx(0.1875 * math.log(3.0) ** 2, abs=1e-6)  # p (1 - p) (ln p/(1-p))^2


def test_a_temperature_of_zero_is_the_likeliest_token():
    own = model(1)
    sampling = Sampling(0.0, 1.0, max_new_tokens=24, eos_ids=[1], pad_id=0)
    answer = generate(own, [Request([5, 7, 9], ("seed", 0))], sampling, rows=1)[0]
    found = evidence(own, [5, 7, 9], answer.token_ids, temperature=0.0, top_p=1.0)
    assert abs(found.mean) < 0.02  # one position of this answer is a near tie
    assert not found.speaks_against
    other = [(token + 1) % 40 for token in answer.token_ids]
    assert evidence(own, [5, 7, 9], other, temperature=0.0, top_p=1.0).speaks_against
