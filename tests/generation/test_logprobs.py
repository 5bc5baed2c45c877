import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from rlp_engine.generation.logprobs import TokenLogprobs, has_plain_head, response_logprobs
from rlp_engine.models.response_rows import pack

PAD = 0
CPU = torch.device("cpu")
RESPONSES = [[4, 5, 1], [7], [8, 9, 10, 11, 1], [12, 13], [14, 3, 2], [5, 6, 7, 8]]


@pytest.fixture
def rows(prompts):
    return pack(prompts, RESPONSES, pad_id=PAD, device=CPU)


def plain(model, prompt, response, temperature):
    """Log-probabilities of one response by the obvious computation, nothing shared, nothing padded."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0] / temperature
    logprobs = logits.log_softmax(dim=-1)
    return torch.stack([logprobs[len(prompt) - 1 + t, token] for t, token in enumerate(response)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
@pytest.mark.parametrize("width", [None, 5], ids=["without-mask", "with-mask"])
def test_they_equal_a_plain_forward_pass_and_are_0_at_padding(model, prompts, temperature, chunk, width):
    rows = pack(prompts, RESPONSES, pad_id=PAD, device=CPU, response_width=width)
    with torch.no_grad():
        logprobs = response_logprobs(model, rows, temperature, chunk)
        for row, (prompt, response) in enumerate(zip(prompts, RESPONSES, strict=True)):
            expected = plain(model, prompt, response, temperature)
            torch.testing.assert_close(logprobs[row, : len(response)], expected, rtol=0, atol=1e-5)
            assert logprobs[row, len(response) :].eq(0).all()
    assert logprobs.shape == (6, 5)
    assert logprobs.dtype == torch.float32


def test_padding_may_hold_any_id(model, prompts, rows):
    other = pack(prompts, RESPONSES, pad_id=17, device=CPU)
    with torch.no_grad():
        expected = response_logprobs(model, rows)
        torch.testing.assert_close(response_logprobs(model, other), expected, rtol=0, atol=1e-6)


def test_the_rows_of_a_batch_do_not_touch_each_other(model, prompts, rows):
    with torch.no_grad():
        together = response_logprobs(model, rows)
        for i in range(6):
            alone = response_logprobs(model, pack([prompts[i]], [RESPONSES[i]], pad_id=PAD, device=CPU))[0]
            torch.testing.assert_close(together[i, : len(alone)], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [4, 10_000])
def test_the_gradient_is_that_of_the_plain_computation(model, prompts, rows, chunk):
    response_logprobs(model, rows, 0.7, chunk).sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    pairs = zip(prompts, RESPONSES, strict=True)
    sum(plain(model, prompt, response, 0.7).sum() for prompt, response in pairs).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-4)


def soft_capped():
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.5,
            final_logit_softcapping=0.5, pad_token_id=PAD, bos_token_id=2, eos_token_id=1,
        )
    )  # fmt: skip


def scaled():
    return CohereForCausalLM(
        CohereConfig(
            vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.5, logit_scale=0.25,
            pad_token_id=PAD, bos_token_id=2, eos_token_id=1,
        )
    )  # fmt: skip


@pytest.mark.parametrize("build", [soft_capped, scaled])
def test_a_model_that_caps_or_scales_its_logits_is_read_as_it_is(build, prompts, rows):
    torch.manual_seed(11)
    model = build().eval()
    assert not has_plain_head(model)
    with torch.no_grad():
        logprobs = response_logprobs(model, rows)
        expected = plain(model, prompts[2], RESPONSES[2], 1.0)
    torch.testing.assert_close(logprobs[2], expected, rtol=0, atol=1e-5)


def test_plain_heads_are_found(model):
    assert has_plain_head(model)


def test_responses_without_a_token_have_no_logprob_and_a_gradient_of_0(one_model):
    logprobs = response_logprobs(one_model, pack([[3, 4], [5]], [[], []], pad_id=PAD, device=CPU))
    assert logprobs.tolist() == [[0.0], [0.0]]
    logprobs.sum().backward()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_backward_pass_of_a_logprob_is_that_of_autograd(temperature):
    torch.manual_seed(0)
    logits = torch.randn(5, 9, dtype=torch.float64).float().requires_grad_()
    tokens, weights = torch.tensor([0, 8, 3, 3, 1]), torch.randn(5)
    (TokenLogprobs.apply(logits, tokens, temperature) * weights).sum().backward()
    ours, logits.grad = logits.grad, None
    (((logits / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]) * weights).sum().backward()
    torch.testing.assert_close(ours, logits.grad, rtol=1e-5, atol=1e-6)


def test_bfloat16_logits_are_normalised_in_float32(one_model, rows):
    model = one_model.bfloat16()
    with torch.no_grad():
        logprobs = response_logprobs(model, rows)
    assert logprobs.dtype == torch.float32
    # in bfloat16 every value near -4 would be a multiple of 1/32
    assert (logprobs[rows.live_RT] * 32 % 1).abs().max() > 1e-3
