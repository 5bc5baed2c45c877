import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from rlp_engine.data.batching import pad
from rlp_engine.errors import ModelError
from rlp_engine.generation.native import Completion, Queue, Request, Sampling, generate

EOS, PAD = 1, 0
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=12, eos_ids=[EOS], pad_id=PAD)
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=12, eos_ids=[EOS], pad_id=PAD)


def requests_for(prompts, draws=1):
    return [Request(prompt, (42, number, draw)) for number, prompt in enumerate(prompts) for draw in range(draws)]


def token_ids(completions):
    return [completion.token_ids for completion in completions]


def test_greedy_answers_are_those_of_transformers(model, prompts):
    ours = generate(model, requests_for(prompts), GREEDY, rows=4)
    ids, attention = pad(prompts, PAD, "left")
    theirs = model.generate(ids, attention_mask=attention.long(), do_sample=False, max_new_tokens=12, eos_token_id=EOS)
    expected = [until_eos(row[ids.shape[1] :].tolist()) for row in theirs]
    assert token_ids(ours) == expected
    assert len({tuple(row) for row in expected}) > 3  # the prompts matter


@pytest.mark.parametrize("settings", [SAMPLING, Sampling(0.7, 0.9, 12, [EOS, 5, 6], PAD)], ids=["plain", "top-p"])
def test_the_number_of_rows_changes_no_token(model, prompts, settings):
    requests = requests_for(prompts, draws=3)
    alone = generate(model, requests, settings, rows=1)
    for rows in (2, 7, 64):
        together = generate(model, requests, settings, rows=rows)
        assert token_ids(together) == token_ids(alone)
        for one, other in zip(together, alone, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert len({tuple(ids) for ids in token_ids(alone)}) > 12  # draws differ from each other
    assert {c.finish_reason for c in alone} == {"stop", "length"}


def test_the_order_of_the_requests_changes_no_token(model, prompts):
    requests = requests_for(prompts, draws=3)
    shuffled = np.random.default_rng(0).permutation(len(requests))
    expected = generate(model, requests, SAMPLING, rows=5)
    actual = generate(model, [requests[i] for i in shuffled], SAMPLING, rows=5)
    assert token_ids(actual) == [expected[i].token_ids for i in shuffled]


def test_fewer_tokens_are_a_beginning_of_more(one_model, prompts):
    short = generate(one_model, requests_for(prompts), Sampling(1.0, 1.0, 4, [EOS], PAD), rows=8)
    long = generate(one_model, requests_for(prompts), SAMPLING, rows=8)
    assert token_ids(short) == [ids[:4] for ids in token_ids(long)]


def test_refilled_rows_and_long_answers_change_no_token(one_model, prompts):
    # more tokens than the newest columns of the cache hold, prompts of one and of many answers
    settings = Sampling(1.0, 1.0, 45, [EOS], PAD)
    for draws in (1, 4):
        requests = requests_for(prompts[:4] if draws > 1 else prompts * 2, draws)
        alone = generate(one_model, requests, settings, rows=1)
        assert max(map(len, token_ids(alone))) > 40
        for rows in (3, 64):
            assert token_ids(generate(one_model, requests, settings, rows=rows)) == token_ids(alone)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_logprobs_are_those_of_a_plain_forward_pass(model, prompts, temperature):
    settings = Sampling(temperature, 0.8, 12, [EOS], PAD)
    for request, completion in zip(
        requests_for(prompts), generate(model, requests_for(prompts), settings, rows=3), strict=True
    ):
        ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
        with torch.no_grad():
            logprobs = (model(ids).logits[0, :-1] / temperature).log_softmax(dim=-1)
        start = len(request.prompt_ids) - 1
        expected = [logprobs[start + t, token].item() for t, token in enumerate(completion.token_ids)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-5)
        assert completion.logprob == pytest.approx(sum(expected), abs=1e-4)


def test_answers_follow_the_models_own_distribution():
    # Five tokens, two steps, so every answer's probability is known: the product of two softmaxes.
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    draws, prompt = 4000, [3, 4]
    requests = [Request(prompt, ("chi-square", draw)) for draw in range(draws)]
    answers = generate(model, requests, Sampling(2.0, 1.0, 2, [], 0), rows=1000)
    cells = list(itertools.product(range(5), repeat=2))
    counts = np.zeros(len(cells))
    for answer in answers:
        counts[cells.index(tuple(answer.token_ids))] += 1
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, first] for first in range(5)])).logits
    both = (logits.double() / 2.0).softmax(dim=-1)
    expected = np.array([(both[0, 1, first] * both[first, 2, second]).item() for first, second in cells]) * draws
    assert expected.min() > 5  # chi-square's own condition
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 0.01
    assert chisquare(counts, np.full(len(cells), draws / len(cells))).pvalue < 1e-6


def test_an_answer_ends_with_the_first_eos_and_says_why(one_model, prompts):
    settings = Sampling(1.0, 1.0, 12, [EOS, 5, 6, 7, 8], PAD)
    completions = generate(one_model, requests_for(prompts, draws=10), settings, rows=16)
    for completion in completions:
        enders = [token in settings.eos_ids for token in completion.token_ids]
        assert not any(enders[:-1])
        assert (completion.finish_reason == "stop") == enders[-1]
        assert enders[-1] or len(completion.token_ids) == 12
    assert {c.finish_reason for c in completions} == {"stop", "length"}


def forward_shapes(model, run):
    """(rows, tokens) of every forward pass but the first, which asks what attention the model wants."""
    shapes = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    run()
    handle.remove()
    return shapes[1:]


def test_a_prompt_is_prefilled_once_for_all_its_draws(one_model, prompts):
    requests = requests_for(prompts[:2], draws=10)
    sizes = forward_shapes(one_model, lambda: generate(one_model, requests, GREEDY, rows=20))
    assert sizes[0] == (2, 9)
    assert all(shape[1] == 1 and shape[0] <= 20 for shape in sizes[1:])


def test_finished_rows_are_computed_no_more(one_model, prompts):
    completions = []
    requests = requests_for(prompts, draws=10)
    shapes = forward_shapes(one_model, lambda: completions.extend(generate(one_model, requests, SAMPLING, rows=60)))
    rows = [shape[0] for shape in shapes]
    lengths = [len(c.token_ids) for c in completions]
    # Forward pass t feeds token t of the answers that go on after it.
    assert rows[1:] == [sum(length > t for length in lengths) for t in range(1, len(rows))]
    assert rows[-1] < 60


def test_free_rows_are_refilled_while_requests_wait(one_model, prompts):
    requests = requests_for([prompt for prompt in prompts if len(prompt) > 1], draws=20)
    shapes = forward_shapes(one_model, lambda: generate(one_model, requests, SAMPLING, rows=16))
    prefills = [number for number, (_, tokens) in enumerate(shapes) if tokens > 1]
    assert len(prefills) > 5
    for number, (rows, tokens) in enumerate(shapes[: prefills[-1]]):
        if tokens == 1:
            assert rows <= 16
            assert (number + 1 in prefills) == (rows <= 8)  # half of the rows free: others come in


def test_the_queue_keeps_groups_together_and_gives_the_longest_prompts_first():
    queue = Queue(requests_for([[2] * 3, [2] * 9, [2] * 5], draws=4))
    assert queue.prompts == 3
    assert [queue.take(5), queue.take(2), queue.take(9)] == [[[4, 5, 6, 7], [8]], [[9, 10]], [[11], [0, 1, 2, 3]]]
    assert not queue


@pytest.mark.parametrize("stops", [False, True])
def test_the_models_own_attention_comes_back(one_model, prompts, stops):
    class Stop:
        def check(self):
            if stops and one_model.config._attn_implementation == "sdpa":
                raise KeyboardInterrupt

    ids = torch.tensor([prompts[1]])
    before = one_model(ids).logits
    with pytest.raises(KeyboardInterrupt) if stops else nullcontext():
        generate(one_model, requests_for(prompts), SAMPLING, rows=4, stop=Stop())
    assert one_model.config._attn_implementation == "sdpa"
    assert torch.equal(one_model(ids).logits, before)


def test_progress_counts_up_to_all_and_no_request_gives_no_answer(one_model, prompts):
    seen = []
    generate(one_model, requests_for(prompts), GREEDY, rows=4, on_progress=lambda *counts: seen.append(counts))
    assert seen == sorted(set(seen))
    assert seen[-1] == (6, 6)
    assert seen[0][0] <= 4
    assert generate(one_model, [], GREEDY, rows=4) == []


def test_the_training_mode_comes_back_and_no_gradient_is_kept(one_model, prompts):
    one_model.train()
    generate(one_model, requests_for(prompts), GREEDY, rows=4)
    assert one_model.training
    one_model(torch.tensor([prompts[0]])).logits.sum().backward()  # nothing made under no_grad stands in the way


def test_a_stop_between_tokens_ends_the_call_and_restores_the_mode(one_model, prompts):
    class Stop:
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks == 3:
                raise KeyboardInterrupt

    one_model.train()
    with pytest.raises(KeyboardInterrupt):
        generate(one_model, requests_for(prompts), SAMPLING, rows=4, stop=Stop())
    assert one_model.training


def test_prompts_that_leave_no_room_are_an_error_with_the_number_that_fits(one_model):
    with pytest.raises(ModelError, match="do not fit") as error:
        generate(one_model, [Request([3] * 60, (0,))], SAMPLING, rows=1)
    assert "generation.max_new_tokens=4" in error.value.mend
    with pytest.raises(ValueError, match="without a single token"):
        generate(one_model, [Request([], (0,))], SAMPLING, rows=1)


def test_the_last_token_may_be_the_last_position(one_model):
    completion = generate(one_model, [Request([3] * 52, (0,))], SAMPLING, rows=1)[0]
    assert isinstance(completion, Completion)


def until_eos(ids):
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids
