"""Which fact is asked in which form in which split.

A form is a wording and an opener. Every fact has 24 forms, dealt to the splits by a shuffle of its own,
and 12 more with double openers that only U has. So the test set asks facts that were demonstrated, in
forms in which nobody asked them: a model trained from scratch cannot know facts that it never saw.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from rlp_engine.config.sections.data import SandboxConfig
from rlp_engine.randomness import permutation
from rlp_engine.sandbox.facts import DOUBLE_OPENERS, FACTS, OPENERS, Fact

NUM_WORDINGS = 6
FORMS = tuple((wording, opener) for opener in OPENERS for wording in range(NUM_WORDINGS))
DOUBLE_FORMS = tuple((wording, opener) for opener in DOUBLE_OPENERS for wording in range(NUM_WORDINGS))
FORMS_PER_SPLIT = {"demonstrations": 6, "preference": 4, "unlabeled": 8, "validation": 2, "test": 4}  # of 24


@dataclass(frozen=True, slots=True)
class Question:
    """A fact in a form."""

    fact: Fact
    wording: int
    opener: str

    @property
    def prompt_id(self) -> str:
        return f"{self.fact.fact_id}:w{self.wording}o{(*OPENERS, *DOUBLE_OPENERS).index(self.opener)}"

    @property
    def instruction(self) -> str:
        return self.fact.instruction(self.wording, self.opener)


def deal_facts(config: SandboxConfig) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """The facts of this world, and those of them that U, validation, test and by default preferences ask about.

    Both hold every kind in its share of the 94: kinds take turns, each in an order of its own.
    """
    turns = []
    for kind, group in itertools.groupby(FACTS, key=lambda fact: fact.kind):
        facts = tuple(group)
        order = permutation(len(facts), "sandbox", config.seed, "facts", kind)
        turns += [((turn + 0.5) / len(facts), kind, facts[i]) for turn, i in enumerate(order)]
    facts = tuple(fact for _, _, fact in sorted(turns, key=lambda turn: turn[:2]))[: config.facts]
    return facts, facts[: config.preference_facts]


def questions(config: SandboxConfig, split: str) -> list[Question]:
    """The questions of a split, grouped by fact."""
    facts, asked_facts = deal_facts(config)
    if split == "demonstrations":
        asked_facts = facts
    elif split == "preference" and config.preferences_about == "other":
        asked_facts = facts[len(asked_facts) : 2 * len(asked_facts)]
    first, last = _bounds(split)
    asked = []
    for fact in asked_facts:
        order = permutation(len(FORMS), "sandbox", config.seed, "forms", fact.fact_id)
        forms = [FORMS[i] for i in sorted(order[first:last])]
        if split == "unlabeled":
            forms += DOUBLE_FORMS
        asked += [Question(fact, wording, opener) for wording, opener in forms]
    return asked


def _bounds(split: str) -> tuple[int, int]:
    """Which stretch of a fact's shuffled forms belongs to a split."""
    last = list(itertools.accumulate(FORMS_PER_SPLIT.values()))[list(FORMS_PER_SPLIT).index(split)]
    return last - FORMS_PER_SPLIT[split], last
