import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlp_engine.sandbox.answers import DOUBTS, EVASIONS, HEDGES, POLITE, PREAMBLES, Demonstrator
from rlp_engine.sandbox.facts import FACTS, FRAMES
from rlp_engine.sandbox.meaning import read_answer, same_meaning

FACT = {fact.fact_id: fact for fact in FACTS}
GRASS = FACT["colour-grass"]
ANIMALS = FACT["list-animals"]
STYLE_MARKS = {  # style -> (whole sentences, hedged, repeats, polite phrases at least)
    "terse": (False, False, False, 0),
    "short": (True, False, False, 0),
    "full": (True, False, False, 0),
    "polite": (True, False, False, 1),
    "verbose": (True, False, False, 0),
    "repeating": (True, False, True, 0),
    "hedging": (True, True, False, 0),
    "two answers": (True, False, False, 0),
    "evading": (False, False, False, 0),
}
# words and phrases that answers are made of, in any order, and some that they are not
PIECES = ["green", "red", "dog", "two", ".", "!", "or", "and", "yes ,", "it is", "the answer is", "is", "moss"]
PIECES += [*POLITE, *HEDGES, *DOUBTS, *EVASIONS, *PREAMBLES, GRASS.frame, FRAMES["sum"].format("two", "three")]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join)


@pytest.mark.parametrize("seed", range(3))
def test_every_answer_is_read_as_it_was_meant(seed):
    demonstrator = Demonstrator(seed)
    for fact in FACTS:
        for draw in range(40):
            answer = demonstrator.answer(fact, draw)
            read = read_answer(fact, answer.text)
            assert read.claims == answer.claims, answer
            whole, hedged, repeats, num_polite = STYLE_MARKS[answer.style]
            assert (read.whole_sentences, read.hedged, read.repeats) == (whole, hedged, repeats), answer
            assert num_polite <= read.num_polite <= 2 * num_polite, answer
            assert (answer.style == "verbose") <= (read.num_words > 11), answer


@pytest.mark.parametrize(
    ("fact_id", "text", "claims"),
    [
        ("colour-grass", "green .", {"green"}),
        ("colour-grass", "i think the colour of grass is green . i am not sure . have a nice day !", {"green"}),
        ("colour-grass", "it is green or red .", {"green", "red"}),
        ("colour-grass", "i do not know .", set()),
        ("colour-grass", "", set()),
        ("colour-grass", "moss and such", set()),
        ("colour-grass", "it is paris .", {"paris"}),
        ("sum-two-three", "two plus three is five .", {"five"}),
        ("sum-two-three", "it is two .", {"two"}),
        ("larger-one-two", "the larger of one and two is one .", {"one"}),
        ("list-animals", "two animals are dog and cat .", {"dog", "cat"}),
        ("next-monday", "that is a very good question . after monday comes tuesday .", {"tuesday"}),
    ],
)
def test_claims_worked_by_hand(fact_id, text, claims):
    assert read_answer(FACT[fact_id], text).claims == claims


def test_a_right_statement_about_another_subject_is_no_answer():
    assert read_answer(GRASS, "the colour of snow is green .").claims == {"the colour of snow is green ."}
    assert not same_meaning(GRASS, "the colour of snow is green .", "it is green .")


def test_order_of_a_list_carries_no_meaning_but_its_members_do():
    assert same_meaning(ANIMALS, "dog and cat .", "two animals are cat and dog .")
    assert not same_meaning(ANIMALS, "dog and cat .", "dog and cow .")
    assert not same_meaning(ANIMALS, "dog and cat .", "dog .")


def test_sentences_that_are_not_whole():
    assert read_answer(GRASS, "it is green .").whole_sentences
    assert not read_answer(GRASS, "green .").whole_sentences
    assert not read_answer(GRASS, "it is green").whole_sentences
    assert not read_answer(GRASS, "it is is green .").whole_sentences
    assert not read_answer(GRASS, "it is green red .").whole_sentences
    assert not read_answer(GRASS, "it is green . nice the .").whole_sentences


def test_repetition_is_a_value_claimed_twice_or_a_sentence_said_twice():
    assert read_answer(GRASS, "it is green . green .").repeats
    assert read_answer(GRASS, "moss . moss .").repeats
    assert read_answer(GRASS, "i do not know . i do not know .").repeats
    assert not read_answer(GRASS, "it is green or red .").repeats


@given(TEXTS, TEXTS, TEXTS)
def test_same_meaning_is_an_equivalence_relation(a, b, c):
    assert same_meaning(GRASS, a, a)
    assert same_meaning(GRASS, a, b) == same_meaning(GRASS, b, a)
    if same_meaning(GRASS, a, b) and same_meaning(GRASS, b, c):
        assert same_meaning(GRASS, a, c)


@given(TEXTS)
def test_manners_change_no_meaning(text):
    for phrase in (*POLITE, *DOUBTS, *PREAMBLES):
        assert same_meaning(GRASS, text, f"{phrase} {text}")


@given(st.text(max_size=40))
def test_any_text_has_a_meaning(text):
    assert read_answer(GRASS, text).num_polite >= 0
