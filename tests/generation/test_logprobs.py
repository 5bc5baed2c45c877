import pytest
import torch

from rlp_engine.data.batching import pad
from rlp_engine.generation.logprobs import response_logprobs

PAD = 0
RESPONSES = [[4, 5, 1], [7], [8, 9, 10, 11, 1], [12, 13], [14, 3, 2], [5, 6, 7, 8]]


@pytest.fixture
def batch(prompts):
    left, attended_left = pad(prompts, PAD, "left")
    right, attended_right = pad(RESPONSES, PAD, "right")
    return torch.cat([left, right], dim=1), torch.cat([attended_left, attended_right], dim=1).bool(), left.shape[1]


def plain(model, prompt, response, temperature):
    """Log-probabilities of one response by the obvious computation, nothing shared, nothing padded."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0] / temperature
    logprobs = logits.log_softmax(dim=-1)
    return torch.stack([logprobs[len(prompt) - 1 + t, token] for t, token in enumerate(response)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_they_equal_a_plain_forward_pass_and_are_0_at_padding(model, prompts, batch, temperature, chunk):
    ids, attention, start = batch
    with torch.no_grad():
        logprobs = response_logprobs(model, ids, attention, start, temperature, chunk)
        for row, (prompt, response) in enumerate(zip(prompts, RESPONSES, strict=True)):
            expected = plain(model, prompt, response, temperature)
            torch.testing.assert_close(logprobs[row, : len(response)], expected, rtol=0, atol=1e-5)
            assert logprobs[row, len(response) :].eq(0).all()
    assert logprobs.shape == (6, 5)
    assert logprobs.dtype == torch.float32


def test_padding_may_hold_any_id(model, batch):
    ids, attention, start = batch
    other = torch.where(attention, ids, 17)
    with torch.no_grad():
        expected = response_logprobs(model, ids, attention, start)
        torch.testing.assert_close(response_logprobs(model, other, attention, start), expected, rtol=0, atol=1e-6)


def test_the_rows_of_a_batch_do_not_touch_each_other(model, batch):
    ids, attention, start = batch
    with torch.no_grad():
        together = response_logprobs(model, ids, attention, start)
        pieces = [response_logprobs(model, ids[i : i + 2], attention[i : i + 2], start) for i in (0, 2, 4)]
    torch.testing.assert_close(together, torch.cat(pieces), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 5), (3, 2)])
def test_more_padding_on_either_side_changes_nothing(model, batch, left, right):
    ids, attention, start = batch
    more = [torch.full((len(ids), width), PAD) for width in (left, right)]
    none = [torch.zeros((len(ids), width), dtype=torch.bool) for width in (left, right)]
    with torch.no_grad():
        expected = response_logprobs(model, ids, attention, start)
        found = response_logprobs(
            model, torch.cat([more[0], ids, more[1]], 1), torch.cat([none[0], attention, none[1]], 1), start + left
        )
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, rtol=0, atol=1e-5)
    assert not found[:, expected.shape[1] :].any()


@pytest.mark.parametrize("chunk", [4, 10_000])
def test_the_gradient_is_that_of_the_plain_computation(one_model, prompts, batch, chunk):
    ids, attention, start = batch
    response_logprobs(one_model, ids, attention, start, 0.7, chunk).sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in one_model.named_parameters()}
    one_model.zero_grad()
    rows = zip(prompts, RESPONSES, strict=True)
    sum(plain(one_model, prompt, response, 0.7).sum() for prompt, response in rows).backward()
    for name, parameter in one_model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_bfloat16_logits_are_normalised_in_float32(one_model, batch):
    ids, attention, start = batch
    model = one_model.bfloat16()
    with torch.no_grad():
        logprobs = response_logprobs(model, ids, attention, start)
    assert logprobs.dtype == torch.float32
    # in bfloat16 every value near -4 would be a multiple of 1/32
    assert (logprobs[attention[:, start:]] * 32 % 1).abs().max() > 1e-3


@pytest.mark.parametrize("start", [0, 14])
def test_a_response_needs_a_token_before_it_and_one_in_it(one_model, batch, start):
    ids, attention, _ = batch
    with pytest.raises(ValueError, match="response_start"):
        response_logprobs(one_model, ids, attention, start)


def test_a_mask_of_another_shape_is_refused(one_model, batch):
    ids, attention, start = batch
    with pytest.raises(ValueError, match="two \\(B, L\\)"):
        response_logprobs(one_model, ids, attention[:1], start)
