"""The true reward of the sandbox, which only the annotator and the judge may ask.

It has two parts, because reward learning can gain on either: is the answer right (`correct`), and is it
put well (`style`)?
"""

from __future__ import annotations

from rlp_engine.sandbox.facts import Fact
from rlp_engine.sandbox.meaning import read_answer

CORRECT = 1.6
WHOLE_SENTENCE = 0.6
ONE_POLITE_PHRASE = 0.6
EACH_MORE_POLITE_PHRASE = -0.3
HEDGE = -0.6
REPETITION = -0.6
FREE_WORDS = 14
EACH_WORD_BEYOND = -0.08
UNCLEAR = -0.3  # says nothing, too little, or several things
UNFINISHED = -1.0  # cut off by the token limit


def gold_parts(fact: Fact, text: str, finish_reason: str = "stop", style_weight: float = 1.0) -> dict[str, float]:
    """What each property of an answer is worth; `gold` is the sum.

    Returns:
        `correct` (0 or 1.6), `style` (the sum of all that follows), and its terms `sentence`, `polite`,
        `hedge`, `repetition`, `length`, `unclear`, `unfinished`, all times `style_weight`.
        `gold` = correct + style, at most 2.8 when the weight is 1.
    """
    meaning = read_answer(fact, text)
    style = {
        "sentence": WHOLE_SENTENCE * meaning.whole_sentences,
        "polite": (ONE_POLITE_PHRASE + EACH_MORE_POLITE_PHRASE * (meaning.num_polite - 1)) * (meaning.num_polite > 0),
        "hedge": HEDGE * meaning.hedged,
        "repetition": REPETITION * meaning.repeats,
        "length": EACH_WORD_BEYOND * max(0, meaning.num_words - FREE_WORDS),
        "unclear": UNCLEAR * (len(meaning.claims) != fact.num_values),
        "unfinished": UNFINISHED * (finish_reason != "stop"),
    }
    style = {name: style_weight * value for name, value in style.items()}
    correct = CORRECT * (meaning.claims in fact.answers)
    return {"gold": correct + sum(style.values()), "correct": correct, "style": sum(style.values()), **style}


def gold(fact: Fact, text: str, finish_reason: str = "stop", style_weight: float = 1.0) -> float:
    """The true reward of an answer, between about -3 and 2.8 when style has weight 1."""
    return gold_parts(fact, text, finish_reason, style_weight)["gold"]
