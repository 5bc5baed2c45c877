"""What an answer says: the values it claims, and the manners it says them with.

Two answers to one question mean the same when they claim the same set of values: "green ." and "i think
the colour of grass is green . have a nice day !" do, "green or red ." does not. Answers that claim
nothing mean the same as each other. That is an exact equivalence relation, whatever the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from rlp_engine.sandbox.answers import DOUBTS, EVASIONS, HEDGES, POLITE, PREAMBLES, SHORT_VERBS
from rlp_engine.sandbox.facts import FRAMES, VALUES, Fact

FRAME_PATTERN = re.compile("|".join(frame.replace("{}", r"\S+") for frame in FRAMES.values()))
OPENING_PATTERN = re.compile(rf"(?:yes , )?(?:(?:{'|'.join(HEDGES)}) )?(?P<verb>(?:{'|'.join(SHORT_VERBS)}) )?")
LIST_PATTERN = re.compile(r"\S+(?: (?:and|or) \S+)*")
SENTENCE_PATTERN = re.compile(r"[^.!?]*[.!?]|[^.!?]+$")


@dataclass(frozen=True, slots=True)
class Meaning:
    """An answer taken apart."""

    claims: frozenset[str]  # values, or whole sentences about another subject
    num_polite: int  # polite phrases
    hedged: bool
    repeats: bool  # a value claimed twice, or a sentence said twice
    whole_sentences: bool  # at least one sentence with a verb that answers, and nothing that is not a sentence
    num_words: int  # punctuation not counted


@lru_cache(maxsize=65536)
def read_answer(fact: Fact, text: str) -> Meaning:
    """Take an answer to `fact` apart. Any text has a meaning; spaces decide what is a word."""
    words = text.split()
    rest, num_polite = _take(" ".join(words), POLITE)
    rest, num_doubts = _take(rest, DOUBTS)
    rest, _ = _take(rest, PREAMBLES)
    rest, num_evasions = _take(rest, EVASIONS)
    sentences = [match.group().strip() for match in SENTENCE_PATTERN.finditer(rest)]
    claims = [claim for sentence in sentences for claim in _claims(fact, sentence)]
    return Meaning(
        claims=frozenset(claims),
        num_polite=num_polite,
        hedged=bool(num_doubts) or _holds(rest, HEDGES),
        repeats=len(set(claims)) < len(claims) or len(set(sentences)) < len(sentences) or num_evasions > 1,
        whole_sentences=any(_has_verb(fact, s) for s in sentences) and all(_is_answer(fact, s) for s in sentences),
        num_words=sum(word[0].isalnum() for word in words),
    )


def same_meaning(fact: Fact, text_a: str, text_b: str) -> bool:
    """Whether two answers to one question claim the same values."""
    return read_answer(fact, text_a).claims == read_answer(fact, text_b).claims


def _take(text: str, phrases: tuple[str, ...]) -> tuple[str, int]:
    """The text without these phrases, and how many there were. Only whole words match."""
    count = 0
    padded = f" {text} "
    for phrase in phrases:
        while f" {phrase} " in padded:
            padded = padded.replace(f" {phrase} ", " ", 1)
            count += 1
    return padded.strip(), count


def _holds(text: str, phrases: tuple[str, ...]) -> bool:
    return any(f" {phrase} " in f" {text} " for phrase in phrases)


def _claims(fact: Fact, sentence: str) -> list[str]:
    """The values that a sentence claims; the sentence itself when it is about something else."""
    frames = FRAME_PATTERN.findall(sentence)
    if any(frame != fact.frame for frame in frames):
        return [sentence]
    return [word for word in FRAME_PATTERN.sub("", sentence).split() if word in VALUES]


def _body(fact: Fact, sentence: str) -> tuple[str, bool]:
    """A sentence without its end mark and opening words; and whether those held a verb."""
    text = sentence.rstrip(".!? ").replace(fact.frame, SHORT_VERBS[0], 1)
    opening = OPENING_PATTERN.match(text)
    assert opening is not None  # every part of the pattern is optional
    return text[opening.end() :], opening.group("verb") is not None


def _is_answer(fact: Fact, sentence: str) -> bool:
    """Whether the sentence is a list of values with at most an opening before it, and ends with a mark."""
    body, _ = _body(fact, sentence)
    words = [word for word in body.split() if word not in ("and", "or")]
    return sentence[-1] in ".!" and bool(LIST_PATTERN.fullmatch(body)) and all(word in VALUES for word in words)


def _has_verb(fact: Fact, sentence: str) -> bool:
    return _is_answer(fact, sentence) and _body(fact, sentence)[1]
