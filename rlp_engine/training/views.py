"""Which two texts are the views of a policy pair, and which rows are no negatives of it (METHOD 2.1, 2.3).

    answers   two answers to one instruction [P]
    placebo   an answer each to two instructions: nothing to agree on, a control [we]
    wordings  one answer under two instructions that ask the same [we]

Two answers to one instruction agree on the instruction and on little else, so the paper's views teach the heads to
forget the answer, which the reward needs. Two wordings of one question agree on the answer. What came of it:
docs/RESULTS.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from rlp_engine.config.sections.reward import MultiViewConfig
from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError
from rlp_engine.methods.multi_view import choose_views
from rlp_engine.randomness import KeyPart, uniforms
from rlp_engine.training.order import items_between

Encode = Callable[[Prompt, str], list[int]]

RIVALS = 4  # policy pairs of one topic in a minibatch, where they are negatives of each other


@dataclass(frozen=True)
class PolicyAnswers:
    """The n answers that a policy gave to one instruction."""

    prompt: Prompt
    texts: list[str]


LEAST_PAIRS = 8  # of refine_rm.multi_view.pairs_per_step: each needs negatives among the others


@dataclass(frozen=True)
class ViewPair:
    """Two texts as the reward model reads them."""

    views: tuple[list[int], list[int]]
    groups: tuple[Hashable, Hashable]  # what each view is about: equal ones are never negatives
    key: tuple[KeyPart, ...]  # of its noise
    stratum: Hashable = None  # only rows of one stratum are negatives


class ViewPairs(ABC):
    """Which policy pairs a step has: items that come once an epoch and at most once in a minibatch.

    Args:
        items: what pairs are drawn of: the answers to an instruction, or to a topic.
        size: pairs of a step.
        seed_parts: (seed, round, stage name), the start of every random key.
        per_item: pairs that an item gives each time it comes; divides `size`.
        shortage: the error's words when a step needs more items than there are.

    Raises:
        DataError: fewer items than a step needs.
    """

    def __init__(
        self, items: Sequence, size: int, seed_parts: tuple[KeyPart, ...], *, shortage: str, per_item: int = 1
    ) -> None:
        self._items, self._per_step = list(items), size // per_item
        self._key = (*seed_parts, "views")
        if len(self._items) < self._per_step:
            possible = len(self._items) * per_item
            fewer = f", or --set refine_rm.multi_view.pairs_per_step={possible}" if possible >= LEAST_PAIRS else ""
            raise DataError(
                f"only {len(self._items)} of {shortage}, and {self._per_step} are needed for a step",
                mend=f"sample more instructions, or with a higher sample.temperature{fewer}",
            )

    def of_step(self, step: int) -> list[ViewPair]:
        """The pairs of step `step`, counted from 1 over warm-up and joint training."""
        count = len(self._items)
        epoch, place = divmod(step - 1, count // self._per_step)  # the rest of an epoch is left out
        first = epoch * count + place * self._per_step
        drawn = items_between(first, first + self._per_step, count, (*self._key, "order"))
        return [pair for item, epoch in drawn for pair in self._pairs(item, epoch)]

    @abstractmethod
    def _pairs(self, item: int, epoch: int) -> list[ViewPair]:
        """The pairs of one item: a function of the item, the epoch and the seed."""


class AnswerViews(ViewPairs):
    """Two answers of different text to one instruction, ordered, drawn uniformly by (seed, epoch, prompt id).

    Instructions whose normalised texts are equal count as one; an instruction whose answers are all equal is left
    out.
    """

    def __init__(
        self, answers: Sequence[PolicyAnswers], encode: Encode, size: int, seed_parts: tuple[KeyPart, ...]
    ) -> None:
        self._encode = encode
        groups: dict[str, list[PolicyAnswers]] = defaultdict(list)
        for answer in answers:
            if len(set(answer.texts)) > 1:
                groups[normalised(answer.prompt)].append(answer)
        super().__init__(
            list(groups.values()),
            size,
            seed_parts,
            shortage=f"{len(answers)} instructions have two different answers",
        )

    def _pairs(self, item: int, epoch: int) -> list[ViewPair]:
        members = self._items[item]
        which, draw = uniforms(2, *self._key, epoch, members[0].prompt.prompt_id)
        member = members[int(which * len(members))]
        chosen = choose_views(member.texts, float(draw))
        assert chosen is not None, "instructions whose answers are all equal were left out"
        encoded = tuple(self._encode(member.prompt, member.texts[index]) for index in chosen)
        return [ViewPair(encoded, (item, item), (*self._key, "noise", epoch, member.prompt.prompt_id))]


class PlaceboViews(AnswerViews):
    """A control: the pairs of `AnswerViews`, each second view exchanged for that of the next pair of the minibatch.

    The same texts take part as often; what the views share is gone.
    """

    def of_step(self, step: int) -> list[ViewPair]:
        pairs = super().of_step(step)
        return [
            replace(pair, views=(pair.views[0], other.views[1]), groups=(pair.groups[0], other.groups[1]))
            for pair, other in zip(pairs, [*pairs[1:], pairs[0]], strict=True)
        ]


class WordingViews(ViewPairs):
    """(x, y) and (x', y): an answer to one instruction of a topic, under it and under another one of the topic.

    Args:
        topic: the key of a prompt's `meta` that is equal for instructions that ask the same.
        hard_negatives: "none": one pair of a topic in a minibatch. "also": four pairs of each topic, and those with
            other answers are negatives too, so that z cannot do with the topic. "only": they alone are: the bound is
            then about what the views share given the topic.

    Topics of one instruction, by normalised text, are left out.

    Raises:
        DataError: a prompt has no such key, or there are fewer topics than a step needs.
    """

    def __init__(
        self,
        answers: Sequence[PolicyAnswers],
        encode: Encode,
        size: int,
        seed_parts: tuple[KeyPart, ...],
        *,
        topic: str,
        hard_negatives: str = "none",
    ) -> None:
        self._encode, self._hard_negatives = encode, hard_negatives
        topics: dict[str, list[PolicyAnswers]] = defaultdict(list)
        for answer in answers:
            topics[topic_of(answer.prompt, topic)].append(answer)
        self._rows = 1 if hard_negatives == "none" else RIVALS
        super().__init__(
            [members for members in topics.items() if len({normalised(m.prompt) for m in members[1]}) > 1],
            size,
            seed_parts,
            shortage=f"{len(topics)} topics have two instructions",
            per_item=self._rows,
        )

    def _pairs(self, item: int, epoch: int) -> list[ViewPair]:
        name, members = self._items[item]
        return [self._pair(name, members, (epoch, name, row)) for row in range(self._rows)]

    def _pair(self, name: str, members: Sequence[PolicyAnswers], key: tuple[KeyPart, ...]) -> ViewPair:
        which, which_text, which_other = uniforms(3, *self._key, *key)
        member = members[int(which * len(members))]
        text = member.texts[int(which_text * len(member.texts))]
        others = [other for other in members if normalised(other.prompt) != normalised(member.prompt)]
        other = others[int(which_other * len(others))]
        views = (self._encode(member.prompt, text), self._encode(other.prompt, text))
        group = name if self._hard_negatives == "none" else (name, text)
        stratum = name if self._hard_negatives == "only" else None
        return ViewPair(views, (group, group), (*self._key, "noise", *key), stratum)


def view_pairs(
    config: MultiViewConfig, answers: Sequence[PolicyAnswers], encode: Encode, seed_parts: tuple[KeyPart, ...]
) -> ViewPairs:
    """The views that `config` asks for."""
    arguments = (answers, encode, config.pairs_per_step, seed_parts)
    if config.views == "wordings":
        return WordingViews(*arguments, topic=config.topic, hard_negatives=config.hard_negatives)
    return {"answers": AnswerViews, "placebo": PlaceboViews}[config.views](*arguments)


def topic_of(prompt: Prompt, key: str) -> str:
    """What the prompt asks, by its `meta`.

    Raises:
        DataError: it does not say.
    """
    if key not in prompt.meta:
        raise DataError(
            "an instruction does not say what it asks, and views = 'wordings' needs instructions that ask the same",
            where=f"prompt {prompt.prompt_id}, meta",
            found=", ".join(sorted(prompt.meta)) or "an empty one",
            want=f"the key '{key}', of refine_rm.multi_view.topic",
            mend='give every row of data.unlabeled a `meta` such as {"topic": "capital of france"}, and name its key',
        )
    return str(prompt.meta[key])


def normalised(prompt: Prompt) -> str:
    """The instruction's text without differences of case and white space: equal ones are one instruction."""
    return " ".join(f"{prompt.instruction}\n{prompt.input}".casefold().split())


def numbered(names: Sequence[Hashable]) -> list[int]:
    """Equal names -> equal numbers, in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]
