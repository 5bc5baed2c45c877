"""The fast decoder against transformers' plain cache and against forward passes without any cache."""

import pytest
import tiny_causal_models as tiny
import torch
from tiny_causal_models import PAD, VOCABULARY

from rlp_engine.generation.attention import can_share
from rlp_engine.generation.cache import RECENT
from rlp_engine.generation.decoders import PART_TOKENS, PlainDecoder, SharedDecoder, prefill, prefill_by_length

SHARE = ["llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "mistral_without_window"]
PROMPTS = [[7, 8, 9, 10, 11, 12, 13], [5, 6, 7], [30, 31, 2]]


def build(name, **changes):
    torch.manual_seed(11)
    return getattr(tiny, name)(**changes).eval()


@pytest.mark.parametrize("name", SHARE)
def test_models_with_plain_causal_attention_share_prompts(name):
    model = build(name)
    own = model.config._attn_implementation
    assert can_share(model)
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("name", ["mistral", "gemma2_soft_cap", "bloom", "mamba"])
def test_models_with_any_other_attention_do_not(name):
    assert not can_share(build(name))


class Script:
    """Rows that get scripted tokens, and the log-probabilities that a decoder gave after every one of them."""

    def __init__(self, decoder):
        self.decoder = decoder
        self.rows, self.seen = [], []  # sequences at work; (sequence, log-probabilities of its next token)
        self.generator = torch.Generator().manual_seed(5)

    def admit(self, prompts, copies):
        logits_RV = self.decoder.admit(prompts, copies)
        rows = [list(prompt) for prompt, count in zip(prompts, copies, strict=True) for _ in range(count)]
        self._note(rows, logits_RV)
        self.rows += rows

    def advance(self):
        tokens = torch.randint(2, VOCABULARY, (len(self.rows),), generator=self.generator)
        positions = torch.tensor([len(row) for row in self.rows])
        logits_RV = self.decoder.advance(tokens, positions)
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        self._note(self.rows, logits_RV)

    def drop(self, ended):
        order = self.decoder.drop(torch.tensor([row in ended for row in range(len(self.rows))]))
        assert sorted(order.tolist()) == [row for row in range(len(self.rows)) if row not in ended]
        self.rows = [self.rows[row] for row in order.tolist()]

    def _note(self, rows, logits_RV):
        assert len(rows) == len(logits_RV)
        self.seen += [(tuple(row), logprobs) for row, logprobs in zip(rows, logits_RV.log_softmax(-1), strict=True)]

    def assert_equals_full_forward_passes(self, model, atol=1e-5):
        finished = [row for row, _ in self.seen if not any(other[: len(row)] == row != other for other, _ in self.seen)]
        full = {row: model(torch.tensor([row])).logits[0].log_softmax(-1) for row in set(finished)}
        for row, logprobs in self.seen:
            expected = next(values[len(row) - 1] for other, values in full.items() if other[: len(row)] == row)
            torch.testing.assert_close(logprobs, expected, rtol=0, atol=atol)


def run_script(decoder, steps=RECENT + 6):
    """Rows that end, rows that come, and more steps than the newest columns have room for."""
    script = Script(decoder)
    with torch.no_grad():
        script.admit(PROMPTS, [4, 1, 3])
        for step in range(steps):
            script.advance()
            if step == 1:
                script.drop({0, 3, 6})
            if step == 3 and decoder.refills:
                script.admit([[20, 21], [22, 23]], [1, 2])
            if step == 5:
                script.drop({0, 1, 2})
            if step == steps - 3:
                script.drop({0})
    return script


@pytest.mark.parametrize("own_prompt", [0, 7], ids=["shared-prompts", "own-prompts"])
@pytest.mark.parametrize("name", SHARE)
@torch.no_grad()
def test_the_fast_decoder_gives_the_numbers_of_full_forward_passes(name, own_prompt):
    model = build(name)
    script = run_script(SharedDecoder(model, 8, own_prompt, RECENT + 6, PAD))
    assert len(script.seen) > 150
    script.assert_equals_full_forward_passes(model)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2_soft_cap", "bloom"])
@torch.no_grad()
def test_so_does_the_plain_decoder(name):
    model = build(name)
    run_script(PlainDecoder(model, PAD), steps=9).assert_equals_full_forward_passes(model)


@torch.no_grad()
def test_bfloat16_stays_near_float32():
    model = build("llama")
    expected = run_script(SharedDecoder(model, 8, 0, 9, PAD), steps=9).seen
    rounded = run_script(SharedDecoder(model.bfloat16(), 8, 0, 9, PAD), steps=9).seen
    assert rounded[0][1].dtype == torch.bfloat16
    for (row, logprobs), (other, reference) in zip(rounded, expected, strict=True):
        assert row == other
        torch.testing.assert_close(logprobs.float(), reference, rtol=0, atol=0.3)


@torch.no_grad()
def test_prompts_prefilled_by_length_have_the_cache_of_one_prefill():
    model = build("llama", max_position_embeddings=512)
    generator = torch.Generator().manual_seed(0)
    lengths = [
        PART_TOKENS - 100,
        101,
        100,
        7,
        3,
    ]  # the first two are a part: the second is short, the part was not full
    prompts = [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    sizes = []
    model.register_forward_pre_hook(lambda _, __, given: sizes.append(given["input_ids"].shape), with_kwargs=True)
    logits_PV, cache, attention_PL = prefill_by_length(model, prompts, PAD)
    assert sizes == [(2, 412), (3, 100)]
    expected_PV, expected, expected_PL = prefill(model, prompts, PAD)
    torch.testing.assert_close(logits_PV, expected_PV, rtol=0, atol=1e-5)
    assert torch.equal(attention_PL, expected_PL)
    live = attention_PL[:, None, :, None]
    for layer, other in zip(cache.layers, expected.layers, strict=True):
        torch.testing.assert_close(layer.keys * live, other.keys * live, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.values * live, other.values * live, rtol=0, atol=1e-5)
