"""Nine ways to answer, and the imperfect demonstrator who uses them.

The demonstrator is often wrong, and prefers one wrong answer to the others, so that the most frequent
answer of a model that imitates it is not always the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlp_engine.randomness import generator
from rlp_engine.sandbox.facts import FACTS, MEMBERS, NUMBERS, VALUES, Fact

POLITE = ("have a nice day !", "i hope this helps .", "thanks for asking !", "glad to help !")
SHORT_VERBS = ("it is", "the answer is")
HEDGES = ("i think", "maybe", "perhaps")
DOUBTS = ("i am not sure .", "please check this .")
EVASIONS = ("i do not know .", "i can not say .", "that is difficult to say .")
PREAMBLES = (
    "that is a very good question .",
    "let me think about it for a moment .",
    "many people would like to know this .",
    "there is a lot to say here .",
)

# share of the demonstrator's answers
STYLES = {
    "terse": 0.17,
    "short": 0.24,
    "full": 0.15,
    "polite": 0.10,
    "verbose": 0.08,
    "repeating": 0.08,
    "hedging": 0.08,
    "two answers": 0.05,
    "evading": 0.05,
}
CORRECT_LEVELS = (0.9, 0.7, 0.5, 0.35)  # P(right answer), a property of the fact
CORRECT_WEIGHTS = (0.35, 0.35, 0.2, 0.1)
DISTRACTOR_WEIGHTS = (0.6, 0.25, 0.15)  # among the wrong answers of a fact


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def value_phrase(rng: np.random.Generator, values: frozenset[str]) -> str:
    """The values in random order: the order carries no meaning."""
    words = sorted(values)
    return " and ".join(words[i] for i in rng.permutation(len(words)))


def clause(rng: np.random.Generator, fact: Fact, phrase: str, *, full: bool = False) -> str:
    """A sentence with a verb that claims the values of `phrase`."""
    if full:
        return f"{fact.frame} {phrase} ."
    return f"{pick(rng, SHORT_VERBS)} {phrase} ."


def _polite(rng: np.random.Generator, fact: Fact, phrase: str) -> str:
    """One polite phrase after the answer; sometimes two, which is too many."""
    thanks = [POLITE[i] for i in rng.permutation(len(POLITE))[: 1 if rng.random() < 0.8 else 2]]
    return " ".join([clause(rng, fact, phrase, full=rng.random() < 0.3), *thanks])


def _verbose(rng: np.random.Generator, fact: Fact, phrase: str) -> str:
    first, second = rng.permutation(len(PREAMBLES))[:2]
    return f"{PREAMBLES[first]} {PREAMBLES[second]} {clause(rng, fact, phrase, full=rng.random() < 0.3)}"


def _repeating(rng: np.random.Generator, fact: Fact, phrase: str) -> str:
    return f"{clause(rng, fact, phrase, full=rng.random() < 0.3)} yes , {clause(rng, fact, phrase)}"


def _hedging(rng: np.random.Generator, fact: Fact, phrase: str) -> str:
    hedged = f"{pick(rng, HEDGES)} {clause(rng, fact, phrase, full=rng.random() < 0.3)}"
    return f"{hedged} {pick(rng, DOUBTS)}" if rng.random() < 0.5 else hedged


# style -> text for a fact and a value phrase; "two answers" and "evading" need other arguments
WRITERS: dict[str, Callable[[np.random.Generator, Fact, str], str]] = {
    "terse": lambda rng, fact, phrase: f"{phrase} .",
    "short": clause,
    "full": lambda rng, fact, phrase: clause(rng, fact, phrase, full=True),
    "polite": _polite,
    "verbose": _verbose,
    "repeating": _repeating,
    "hedging": _hedging,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the demonstrator wrote, and what it meant by it: the parser must find the same claims."""

    text: str
    style: str
    claims: frozenset[str]


class Demonstrator:
    """Answers questions in mixed styles; right with a probability that depends on the fact.

    Args:
        seed: of the world. How often a fact is known, its distractors and all draws depend on it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.correct_share = {fact: self._correct_share(fact) for fact in FACTS}
        self.distractors = {fact: self._distractors(fact) for fact in FACTS}

    def answer(self, fact: Fact, *key: str | int) -> Answer:
        """The answer that belongs to the key (prompt id, draw)."""
        rng = generator("sandbox", self.seed, "answer", fact.fact_id, *key)
        style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
        if style == "evading":
            return Answer(pick(rng, EVASIONS), style, frozenset())
        values = self._values(rng, fact)
        if style != "two answers":
            return Answer(WRITERS[style](rng, fact, value_phrase(rng, values)), style, values)
        other = pick(rng, tuple(sorted(word for wrong in self.distractors[fact] for word in wrong - values)))
        words = [value_phrase(rng, values), other]
        text = clause(rng, fact, " or ".join(words[i] for i in rng.permutation(2)), full=rng.random() < 0.3)
        return Answer(text, style, values | {other})

    def _correct_share(self, fact: Fact) -> float:
        rng = generator("sandbox", self.seed, "correct share", fact.fact_id)
        return float(rng.choice(CORRECT_LEVELS, p=CORRECT_WEIGHTS))

    def _distractors(self, fact: Fact) -> tuple[frozenset[str], ...]:
        """Three wrong answers of the same kind, the likeliest first."""
        rng = generator("sandbox", self.seed, "distractors", fact.fact_id)
        if fact.kind == "list":  # one member and one intruder
            inside = MEMBERS[fact.subject[0]]
            outside = sorted(word for words in MEMBERS.values() for word in words if word not in inside)
            return tuple(frozenset({pick(rng, inside), outside[i]}) for i in rng.permutation(len(outside))[:3])
        if fact.kind == "larger":  # the smaller one, and two numbers that were not asked about
            smaller = frozenset(fact.subject) - next(iter(fact.answers))
            pool = NUMBERS - set(fact.subject)
            return (smaller, *(frozenset({word}) for word in rng.permutation(sorted(pool))[:2].tolist()))
        pool = {word for other in FACTS if other.kind == fact.kind for answer in other.answers for word in answer}
        pool -= next(iter(fact.answers)) | set(fact.subject)
        return tuple(frozenset({word}) for word in rng.permutation(sorted(pool))[:3].tolist())

    def _values(self, rng: np.random.Generator, fact: Fact) -> frozenset[str]:
        right = sorted(fact.answers, key=sorted)
        if rng.random() < self.correct_share[fact]:
            return right[int(rng.integers(len(right)))]
        return self.distractors[fact][int(rng.choice(3, p=DISTRACTOR_WEIGHTS))]


for _phrase in (*POLITE, *HEDGES, *DOUBTS, *EVASIONS, *PREAMBLES):
    assert not VALUES & set(_phrase.split()), f"a set phrase holds an answer word: {_phrase}"
