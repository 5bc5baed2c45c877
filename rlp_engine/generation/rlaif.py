"""The policy as its own judge: which of two of its answers is better, asked by a prompt (RLAIF; METHOD 3.5, 7.37).

Each comparison is asked in both orders, and the answer is read from the log-probabilities of two labels, so nothing
is sampled. The judging prompt goes through the model's own prompt template like any instruction, and prompt and
label are tokenised as one string (METHOD 4.3).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import ConfigError, DataError, ModelError
from rlp_engine.generation.logprobs import sequence_logprobs
from rlp_engine.models.finite import require_finite
from rlp_engine.models.inputs import position_limit
from rlp_engine.models.policy import Policy

PLACE = re.compile(r"\{(instruction|response_1|response_2)\}")


class Comparison(NamedTuple):
    """An instruction and two answers to it."""

    prompt: Prompt
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Log-probabilities (nats) of the two labels; the first label names the answer that is shown first.

    None, which the policy never gives, is an order of which a server's answer cannot be read.
    """

    first_order: tuple[float, float] | None  # the comparison's first answer shown first
    second_order: tuple[float, float] | None  # its second answer shown first
    shortened: bool  # an answer was cut to fit


class RlaifJudge:
    """A policy, a prompt with places for the two answers, and the two labels it may give."""

    def __init__(
        self,
        policy: Policy,
        template: PromptTemplate,
        *,
        prompt: str,
        labels: Sequence[str],
        max_length: int,
        microbatch: int,
    ) -> None:
        """
        Args:
            prompt: text with {instruction}, {response_1} and {response_2}.
            labels: what names the answer shown first, and the one shown second.
            max_length: tokens of prompt and label; the longer answer loses its end first.
            microbatch: rows per forward pass; a comparison is four rows (two orders, two labels).

        Raises:
            ModelError: if the model has fewer positions than `max_length`.
        """
        limit = position_limit(policy.model)
        if limit is not None and max_length > limit:
            raise ModelError(
                f"the policy reads at most {limit} tokens, and RLAIF's prompt may have {max_length}",
                where=f"synthesize.rlaif.max_length = {max_length}",
                mend=f"--set synthesize.rlaif.max_length={limit}",
            )
        self.policy = policy
        self._template = template
        self._prompt = prompt
        self._labels = (labels[0], labels[1])
        self._max_length = max_length
        self._microbatch = microbatch

    @property
    def unknown_prompt_tokens(self) -> int:
        """Tokens of the prompt's own words that the policy's tokenizer does not know."""
        ids = self._template.encode_prompt(Prompt("rlaif", PLACE.sub(" ", self._prompt)))
        return 0 if self._unknown_id is None else ids.count(self._unknown_id)

    def ask(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict a comparison, in order; it depends on the comparison alone, up to the last bits of a float.

        Raises:
            ConfigError: if the policy's tokenizer cannot tell the labels apart.
            DataError: if an instruction leaves no room for the answers.
            HealthError: a log-probability is not finite.
        """
        contexts: list[list[int]] = []
        labels: list[list[int]] = []
        shortened = []
        for comparison in comparisons:
            fitted = self._fitted(comparison)
            shortened.append(fitted != comparison)
            for one, other in ((fitted.first, fitted.second), (fitted.second, fitted.first)):
                context, pair = self._encode(fitted.prompt, one, other)
                contexts += [context, context]
                labels += pair
        sums = sequence_logprobs(
            self.policy.model,
            contexts,
            labels,
            pad_id=self.policy.tokenizer.pad_token_id,
            rows=self._microbatch,
        )
        require_finite(
            sums,
            "the log-probability of a label",
            model=f"RLAIF judge {self.policy.model.config.name_or_path}",
            place=lambda index: f"prompt {comparisons[index // 4].prompt.prompt_id}",
        )
        return [
            Verdict((sums[i], sums[i + 1]), (sums[i + 2], sums[i + 3]), cut)
            for i, cut in zip(range(0, len(sums), 4), shortened, strict=True)
        ]

    @property
    def _unknown_id(self) -> int | None:
        return self.policy.tokenizer.unk_token_id

    def _asked(self, prompt: Prompt, first: str, second: str) -> Prompt:
        """The judging prompt as an instruction. One pass: braces in the texts themselves are left alone."""
        question = f"{prompt.instruction}\n\n{prompt.input}" if prompt.input else prompt.instruction
        texts = {"instruction": question, "response_1": first, "response_2": second}
        return Prompt(prompt.prompt_id, PLACE.sub(lambda match: texts[match[1]], self._prompt))

    def _with_labels(self, prompt: Prompt, first: str, second: str) -> list[list[int]]:
        """Ids of prompt and label, for each label."""
        asked = self._asked(prompt, first, second)
        return [self._template.encode_scored(asked, label, sys.maxsize) for label in self._labels]

    def _encode(self, prompt: Prompt, first: str, second: str) -> tuple[list[int], list[list[int]]]:
        """What both labelled texts begin with, and how each goes on."""
        one, two = self._with_labels(prompt, first, second)
        start = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        endings = [one[start:], two[start:]]
        if not all(endings) or any(self._unknown_id in ending for ending in endings if self._unknown_id is not None):
            raise self._cannot_tell_apart()
        return one[:start], endings

    def _cannot_tell_apart(self) -> ConfigError:
        ids = self.policy.tokenizer(list(self._labels), add_special_tokens=False, verbose=False)["input_ids"]
        unknown = [label for label, own in zip(self._labels, ids, strict=True) if self._unknown_id in own]
        return ConfigError(
            "the policy's tokenizer cannot tell RLAIF's two labels apart",
            where=f"synthesize.rlaif.labels = {list(self._labels)}",
            found=f"it does not know {' and '.join(map(repr, unknown))}" if unknown else "one begins with the other",
            want="two texts that it writes with different, known tokens",
            mend='such as synthesize.rlaif.labels = ["one", "two"]; ask for them in synthesize.rlaif.prompt too',
        )

    def _fitted(self, comparison: Comparison) -> Comparison:
        """The comparison with answers that fit in both orders: the longer one loses its end first."""
        prompt, texts = comparison.prompt, [comparison.first, comparison.second]
        while (excess := self._longest(prompt, texts) - self._max_length) > 0:
            lengths = [len(self._offsets(text)) for text in texts]
            room = sum(lengths) - excess
            if room <= 0:
                raise DataError(
                    "an instruction leaves no room for two answers in RLAIF's prompt",
                    where=f"prompt {prompt.prompt_id}: {prompt.instruction[:40]!r}",
                    mend=f"raise synthesize.rlaif.max_length = {self._max_length}, or shorten synthesize.rlaif.prompt",
                )
            short = min(*lengths, room // 2)
            kept = [short, short]
            kept[lengths.index(max(lengths))] = room - short
            texts = [self._first_tokens(text, count) for text, count in zip(texts, kept, strict=True)]
        return Comparison(prompt, *texts)

    def _longest(self, prompt: Prompt, texts: Sequence[str]) -> int:
        first, second = texts
        both = self._with_labels(prompt, first, second) + self._with_labels(prompt, second, first)
        return max(map(len, both))

    def _first_tokens(self, text: str, count: int) -> str:
        offsets = self._offsets(text)
        return text if count >= len(offsets) else text[: offsets[count - 1][1]] if count else ""

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        encoding = self.policy.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        return encoding["offset_mapping"]
