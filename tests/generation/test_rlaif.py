"""The policy as its own judge, against a direct forward pass of the same real model."""

from __future__ import annotations

import math

import pytest
import torch

from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import ConfigError, DataError, ModelError
from rlp_engine.generation.rlaif import Comparison, RlaifJudge
from rlp_engine.models.scratch import build_scratch

WORDS = "what is two plus three ? it five maybe one : which answer good , or first Below an instruction Response 1 2"
ASK = "{instruction} one : {response_1} two : {response_2} which answer is good , one or two ?"
TEXT = "Which of two responses to {instruction} is better? 1: {response_1} 2: {response_2}"
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUESTIONS = [
    Comparison(Prompt("a", "what is two plus three ?"), "it is five", "maybe it is three or five"),
    Comparison(Prompt("b", "what is one ?"), "one", "two"),
    Comparison(Prompt("c", "what ?", input="three plus two"), "it is maybe three plus two or one", "five"),
]


def policy(tokenizer: str, positions: int = 256):
    scratch = ScratchConfig(
        hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, tokenizer=tokenizer, vocab_size=400,
        init_std=0.4, max_position_embeddings=positions,
    )  # fmt: skip
    return build_scratch(ModelConfig(init="scratch", scratch=scratch), [WORDS, TEXT], seed=3)


def judge(
    kind: str = "plain", *, labels=("one", "two"), prompt: str = ASK, max_length: int = 200, microbatch: int = 16
):
    made = policy("word" if kind == "plain" else "bpe")
    if kind == "chat":
        made.tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
        made.model.resize_token_embeddings(len(made.tokenizer), mean_resizing=False)
        made.tokenizer.chat_template = CHAT
    template = PromptTemplate(kind, made.tokenizer)
    return RlaifJudge(made, template, prompt=prompt, labels=labels, max_length=max_length, microbatch=microbatch)


def direct(asked: RlaifJudge, text_before: str, text: str) -> float:
    """log p(text | text_before), by one forward pass over one unpadded row."""
    tokenizer, model = asked.policy.tokenizer, asked.policy.model
    before = len(tokenizer(text_before, add_special_tokens=False)["input_ids"])
    ids = torch.tensor([tokenizer(text_before + text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    return sum(float(logprobs[i - 1, ids[0, i]]) for i in range(before, ids.shape[1]))


def shown(kind: str, question: Comparison, first: str, second: str) -> str:
    """The whole text before the label, written out by hand."""
    asked = question.prompt.instruction + (f"\n\n{question.prompt.input}" if question.prompt.input else "")
    if kind == "plain":
        return f"{asked} one : {first} two : {second} which answer is good , one or two ?\n"
    body = f"Which of two responses to {asked} is better? 1: {first} 2: {second}"
    if kind == "chat":
        return f"<|user|>{body}<|assistant|>"
    return (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{body}\n\n### Response:"
    )


@pytest.mark.parametrize("kind", ["plain", "alpaca", "chat"])
def test_both_orders_are_the_models_own_log_probabilities_of_the_labels(kind: str):
    labels = ("one", "two") if kind == "plain" else ("1", "2")
    asked = judge(kind, labels=labels, prompt=ASK if kind == "plain" else TEXT)
    for question, verdict in zip(QUESTIONS, asked.ask(QUESTIONS), strict=True):
        _, a, b = question
        for stated, (first, second) in ((verdict.first_order, (a, b)), (verdict.second_order, (b, a))):
            expected = [direct(asked, shown(kind, question, first, second), label) for label in labels]
            assert stated == pytest.approx(expected, abs=1e-4)
        assert not verdict.shortened
    spread = [v.first_order[0] - v.first_order[1] for v in asked.ask(QUESTIONS)]
    assert max(spread) - min(spread) > 0.1, "the model says the same of everything, so any rows would do"


def test_labels_of_several_tokens_count_as_a_whole():
    asked = judge("alpaca", labels=("first", "or two"), prompt=TEXT)
    (verdict,) = asked.ask(QUESTIONS[:1])
    before = shown("alpaca", *QUESTIONS[:1], *QUESTIONS[0][1:])
    assert len(asked.policy.tokenizer("or two")["input_ids"]) > 1
    assert verdict.first_order == pytest.approx([direct(asked, before, text) for text in ("first", "or two")], abs=1e-4)


def test_the_numbers_do_not_depend_on_the_batch():
    together, alone = judge(microbatch=16), judge(microbatch=1)
    for one, other in zip(together.ask(QUESTIONS), alone.ask(QUESTIONS), strict=True):
        assert (*one.first_order, *one.second_order) == pytest.approx(
            (*other.first_order, *other.second_order), abs=1e-4
        )
    assert together.ask([]) == []


def test_a_long_answer_loses_its_end_and_the_short_one_stays_whole():
    # plain: 13 words around the answers, 3 of the instruction, 1 label; 20 leave three words for the answers
    question = Comparison(Prompt("b", "what is ?"), "five", "it is maybe three or one")
    asked = judge(max_length=20)
    (verdict,) = asked.ask([question])
    assert verdict.shortened
    cut = Comparison(question.prompt, "five", "it is")
    expected = [direct(asked, shown("plain", cut, "five", "it is"), label) for label in ("one", "two")]
    assert verdict.first_order == pytest.approx(expected, abs=1e-4)
    swapped = [direct(asked, shown("plain", cut, "it is", "five"), label) for label in ("one", "two")]
    assert verdict.second_order == pytest.approx(swapped, abs=1e-4)


def test_an_instruction_that_leaves_no_room_is_an_error():
    with pytest.raises(DataError, match="no room") as error:
        judge(max_length=17).ask([QUESTIONS[0]])
    assert "prompt a" in error.value.where
    assert "synthesize.rlaif.max_length" in error.value.mend


def test_braces_in_a_text_stay_as_they_are():
    asked = judge("alpaca", labels=("1", "2"), prompt=TEXT)
    prompt = Prompt("x", "{response_1} {x}")
    (verdict,) = asked.ask([Comparison(prompt, "{instruction}", "{}")])
    before = shown("alpaca", Comparison(prompt, "", ""), "{instruction}", "{}")
    assert verdict.first_order == pytest.approx([direct(asked, before, label) for label in ("1", "2")], abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (("three.", "four."), "it does not know 'three.' and 'four.'"),
        (("one", "four."), "it does not know 'four.'"),
        (("one", "one two"), "one begins with the other"),
    ],
)
def test_labels_that_the_tokenizer_cannot_tell_apart_are_refused(labels, found):
    with pytest.raises(ConfigError, match="labels") as error:
        judge(labels=labels).ask(QUESTIONS)
    assert error.value.found == found
    assert "synthesize.rlaif.labels" in error.value.mend


def test_more_tokens_than_the_model_has_positions_are_refused():
    made = policy("word", positions=64)
    with pytest.raises(ModelError, match="64") as error:
        RlaifJudge(
            made,
            PromptTemplate("plain", made.tokenizer),
            prompt=ASK,
            labels=("one", "two"),
            max_length=65,
            microbatch=4,
        )
    assert error.value.mend == "--set synthesize.rlaif.max_length=64"


def test_words_of_the_prompt_that_the_tokenizer_does_not_know_are_counted():
    assert judge().unknown_prompt_tokens == 0
    assert judge(prompt=ASK.replace("good", "splendid")).unknown_prompt_tokens == 1


def test_log_probabilities_are_finite():
    for verdict in judge().ask(QUESTIONS):
        assert all(math.isfinite(x) and x < 0 for x in (*verdict.first_order, *verdict.second_order))
