"""IFEval's demands: for each an answer that meets it and one that does not."""

from __future__ import annotations

import importlib.util

import pytest
from tiny_run import DATA

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.readers import load_prompts
from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError, ModelError
from rlp_engine.evaluation.ifeval.checkers import CHECKERS, NEEDS_LANGDETECT, count_sentences
from rlp_engine.evaluation.ifeval.judge import IfevalJudge, follows, ifeval_parts, require_checkable

IFEVAL = DATA / "eval" / "ifeval.jsonl"
HAS_LANGDETECT = importlib.util.find_spec("langdetect") is not None

CASES = [  # id, arguments, what meets it, what does not
    ("keywords:existence", {"keywords": ["mom", "Mother"]}, "A moment with mother.", "Mom alone."),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "at least"}, "War, warm.", "War."),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "less than"}, "War.", "War, warm."),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "Rocks and shamrock.", "A Rock."),
    ("keywords:forbidden_words", {"forbidden_words": ["c++"]}, "C is fine.", "I like C++."),
    (
        "keywords:letter_frequency",
        {"letter": "!", "let_frequency": 2, "let_relation": "at least"},
        "Oh! Oh!",
        "Oh!",
    ),
    ("keywords:letter_frequency", {"letter": "t", "let_frequency": 2, "let_relation": "less than"}, "To us", "To it"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "don't go", "do go"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "do go", "do go now"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "Yes. No!", "Yes, no."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One\n***\nTwo", "One\n\nTwo"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\nOne\n***\nTwo", "One\n***\n***\nTwo"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}, "*** One ***", "***"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}, "1 *** 2 *** 3", "1 *** *** 3"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        'One.\n\n"Weekend" it is.',
        "Weekend.\n\nTwo.",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "so"},
        "So be it.",
        "So.\n\nBe it.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [street]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. More.", "Bye. More."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S More.", "Bye.\nP.S. More."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n - two\n**bold**", "* one\n* two\n* three"),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", "My answer is no, thanks."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", "*one* and * * two"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na\nSECTION b",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("detectable_format:json_format", {}, "[1, 2]", "Here it is: [1, 2]"),
    ("detectable_format:title", {}, "<<A Title>>\nText", "<< >>\nText"),
    ("combination:two_responses", {}, "One\n******\nTwo", "One\n******\nOne"),
    ("combination:two_responses", {}, "One ****** Two", "One ****** Two ****** Three"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a song."}, " write a song. La", "La. Write a song."),
    ("startend:end_checker", {"end_phrase": "The end."}, '"So it was. the end."', "The end. Or not."),
    ("startend:quotation", {}, ' "So it is." ', '"So" it is.'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "I saw NASA.",
        "I saw Nasa.",
    ),
    ("punctuation:no_comma", {}, "No. None; at all", "No, none"),
    ("change_case:english_capital", {}, "THE WEATHER IS VERY GOOD TODAY", "THE WEATHER IS VERY Good TODAY"),
    ("change_case:english_lowercase", {}, "the weather is very good today", "das wetter ist heute sehr gut"),
    ("language:response_language", {"language": "de"}, "Das Wetter ist heute sehr gut.", "The weather is good."),
]


def prompt(*demands: dict) -> Prompt:
    return Prompt("p-1", "Do it.", meta={"demands": list(demands)})


@pytest.mark.parametrize(
    ("name", "arguments", "met", "not_met"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_a_demand_is_met_and_is_not(name, arguments, met, not_met):
    if name in NEEDS_LANGDETECT and not HAS_LANGDETECT:
        pytest.skip("the package langdetect is not installed")
    demand = prompt({"id": name, **arguments})
    require_checkable("test", [demand])
    assert follows(demand, met) == [True]
    assert follows(demand, not_met) == [False]


def test_every_checker_has_a_case():
    assert {case[0] for case in CASES} == CHECKERS.keys()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", 3),
        ("Mr. Smith met Dr. Who at 3.5 p.m. sharp", 1),
        ('He said "no." Then he left...', 2),
        ("no end", 1),
        ("...", 0),
        ("これは一つ。これは二つ。", 2),
    ],
)
def test_sentences(text, sentences):
    assert count_sentences(text) == sentences


def test_the_score_is_the_share_and_strict_wants_all():
    both = prompt({"id": "punctuation:no_comma"}, {"id": "startend:quotation"})
    assert ifeval_parts(both, '"so"') == {"followed": 1.0, "strict": 1.0}
    assert ifeval_parts(both, "so") == {"followed": 0.5, "strict": 0.0}
    assert ifeval_parts(both, "  \n") == {"followed": 0.0, "strict": 0.0}, "an empty answer has no comma, and is none"
    assert IfevalJudge().scores([both, both], ["so", '"so"']) == [0.5, 1.0]
    assert IfevalJudge().compare([both], ["so"], ['"so"']) == [2.0]


@pytest.mark.parametrize(
    ("demands", "said"),
    [
        ([], "a row without demands"),
        ([{"id": "keywords:nothing"}], "not one we can check"),
        ([{"id": "punctuation:no_comma", "keywords": ["a"]}], "takes no arguments"),
        ([{"id": "keywords:existence"}], "takes keywords"),
        ([{"id": "keywords:existence", "keywords": "word"}], "wants `keywords` as list"),
        ([{"id": "length_constraints:number_words", "num_words": 3, "relation": "at most"}], "at least, less than"),
    ],
)
def test_what_cannot_be_checked_is_refused_and_named(demands, said):
    with pytest.raises(DataError, match=said) as caught:
        require_checkable("test", [prompt(*demands)])
    assert "p-1" in caught.value.where


def test_a_missing_package_is_named_before_anything_is_judged():
    german = prompt({"id": "language:response_language", "language": "de"})
    if HAS_LANGDETECT:
        require_checkable("test", [german])
        return
    with pytest.raises(ModelError, match="language") as caught:
        require_checkable("test", [german])
    assert "pip install langdetect" in caught.value.mend


@pytest.mark.skipif(not IFEVAL.is_file(), reason="the shared test data (../shared/data) is not here")
def test_all_541_prompts_can_be_checked():
    prompts = load_prompts(DataFile(path=str(IFEVAL)), 0)
    assert len(prompts) == 541
    assert sum(len(p.meta["demands"]) for p in prompts) == 834
    plain = [p for p in prompts if not {d["id"] for d in p.meta["demands"]} & NEEDS_LANGDETECT]
    require_checkable("test", plain)
    assert len(plain) == 446
    # A prompt that asks for its own repetition, given back as it is, meets that demand.
    repeat = next(p for p in plain if p.meta["demands"][0]["id"] == "combination:repeat_prompt")
    assert follows(repeat, repeat.meta["demands"][0]["prompt_to_repeat"])[0]
