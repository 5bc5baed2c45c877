"""The sandbox as the stages see it: demonstrations, prompts, the gold reward and exact meaning."""

from __future__ import annotations

from typing import Literal

from rlp_engine.config.sections.data import SandboxConfig
from rlp_engine.data.records import Demonstration, Prompt
from rlp_engine.errors import DataError
from rlp_engine.sandbox import gold, meaning
from rlp_engine.sandbox.answers import Demonstrator
from rlp_engine.sandbox.facts import DOUBLE_OPENERS, FACTS, OPENERS, Fact
from rlp_engine.sandbox.world import NUM_WORDINGS, Question, questions

Split = Literal["preference", "unlabeled", "validation", "test"]

# No two facts share an instruction, so a question is known by its words, wherever a prompt was stored.
FACT_OF_INSTRUCTION = {
    fact.instruction(wording, opener): fact
    for fact in FACTS
    for opener in (*OPENERS, *DOUBLE_OPENERS)
    for wording in range(NUM_WORDINGS)
}


class World:
    """A world with a known true reward, made from `config` alone: same config, same bytes."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.demonstrator = Demonstrator(config.seed)

    def demonstrations(self) -> list[Demonstration]:
        """`config.demonstrations_per_form` answers to each demonstrated form, wrong ones among them."""
        return [
            Demonstration(
                self._prompt(question), self.demonstrator.answer(question.fact, question.prompt_id, draw).text
            )
            for question in questions(self.config, "demonstrations")
            for draw in range(self.config.demonstrations_per_form)
        ]

    def prompts(self, split: Split) -> list[Prompt]:
        """The prompts of a split; validation and test bring one demonstrator's answer as reference."""
        with_reference = split in ("validation", "test")
        return [self._prompt(question, with_reference=with_reference) for question in questions(self.config, split)]

    def gold(self, prompt: Prompt, text: str, finish_reason: str = "stop") -> float:
        """The true reward of an answer (`gold.gold_parts`).

        Raises:
            DataError: the prompt is not a question of the sandbox.
        """
        return gold.gold(fact_of(prompt), text, finish_reason, self.config.style_weight)

    def gold_parts(self, prompt: Prompt, text: str, finish_reason: str = "stop") -> dict[str, float]:
        """The true reward and what it is made of: gold = correct + style, and the terms of style."""
        return gold.gold_parts(fact_of(prompt), text, finish_reason, self.config.style_weight)

    def same_meaning(self, prompt: Prompt, text_a: str, text_b: str) -> bool:
        """Whether two answers to the prompt claim the same; exact, symmetric and transitive."""
        return meaning.same_meaning(fact_of(prompt), text_a, text_b)

    def _prompt(self, question: Question, *, with_reference: bool = False) -> Prompt:
        reference = None
        if with_reference:
            reference = self.demonstrator.answer(question.fact, question.prompt_id, "reference").text
        meta = {"fact": question.fact.fact_id, "kind": question.fact.kind, "opener": question.opener}
        return Prompt(question.prompt_id, question.instruction, reference=reference, meta=meta)


def fact_of(prompt: Prompt) -> Fact:
    """The fact that a prompt asks for, by the words of its instruction."""
    fact = FACT_OF_INSTRUCTION.get(prompt.instruction)
    if fact is None:
        raise DataError(
            "this is not a question of the sandbox",
            where=f"prompt {prompt.prompt_id}",
            found=prompt.instruction,
            want='an instruction made by data.source = "sandbox"',
            mend="gold judge and sandbox equivalence know the sandbox only: choose others for data of your own",
        )
    return fact
