"""Who says which of two answers is better: the sandbox's gold reward, a fixed reward model, or annotators by server.

Every judge compares two answers. A scoring judge gives each answer a score, and the better score wins; annotators
(`evaluation/annotators.py`) only compare. Equal texts and equal scores are draws.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from rlp_engine.config.sections.judging import LabelNoiseConfig
from rlp_engine.data.cuts import Cuts
from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError
from rlp_engine.evaluation.winrate import DRAW
from rlp_engine.models.finite import require_finite

Gold = Callable[[Prompt, str, str], float]  # (prompt, text, finish_reason) -> score


class Judge(ABC):
    """Prefers one of two answers."""

    name: str

    @abstractmethod
    def compare(
        self,
        prompts: Sequence[Prompt],
        outputs_1: Sequence[str],
        outputs_2: Sequence[str],
        *,
        finish_reasons_1: Sequence[str] | None = None,
        finish_reasons_2: Sequence[str] | None = None,
    ) -> list[float | None]:
        """Preferences in [1, 2]: 2 = output 2 is better, 1.5 = draw; None = no judgement could be read (METHOD 6.1).

        Entry i of all arguments is one comparison. `finish_reasons` ("stop" or "length") default to "stop": an
        answer from a file is whole. Not every judge looks at them.
        """

    def can_judge(self, prompt: Prompt) -> bool:
        """Does this judge know what a good answer to the prompt is?"""
        return True

    def details(self, prompt: Prompt) -> dict[str, str]:
        """What else a row of annotations.jsonl says of who judged the answers to this instruction."""
        return {}

    def costs(self) -> dict[str, float | int]:
        """What judging took so far, for stage.json; nothing for a judge that costs nothing."""
        return {}

    def remarks(self) -> list[str]:
        """What is to be told, as a warning, of how it judged so far."""
        return []


class ScoringJudge(Judge):
    """Scores answers and, from the scores, prefers one of two."""

    @abstractmethod
    def scores(
        self, prompts: Sequence[Prompt], texts: Sequence[str], finish_reasons: Sequence[str] | None = None
    ) -> list[float]:
        """One score an answer, higher is better; entry i of all arguments is one answer, as in `compare`."""

    def compare(
        self,
        prompts: Sequence[Prompt],
        outputs_1: Sequence[str],
        outputs_2: Sequence[str],
        *,
        finish_reasons_1: Sequence[str] | None = None,
        finish_reasons_2: Sequence[str] | None = None,
    ) -> list[float | None]:
        """Preferences in {1, 1.5, 2}, never None. The order of the two cannot sway a score."""
        scores_1 = self.scores(prompts, outputs_1, finish_reasons_1)
        scores_2 = self.scores(prompts, outputs_2, finish_reasons_2)
        return preferences(scores_1, scores_2, outputs_1, outputs_2)


class GoldJudge(ScoringJudge):
    """The true reward of a world that knows it (rlp_engine/sandbox)."""

    def __init__(self, gold: Gold, name: str = "gold") -> None:
        self.name = name
        self._gold = gold

    def scores(
        self, prompts: Sequence[Prompt], texts: Sequence[str], finish_reasons: Sequence[str] | None = None
    ) -> list[float]:
        reasons = _finish_reasons(prompts, texts, finish_reasons)
        return [float(self._gold(*row)) for row in zip(prompts, texts, reasons, strict=True)]


class ScoresPairs(Protocol):
    """What a judge needs of a reward model: rewards of (prompt, answer), in order."""

    def score_responses(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]: ...


class RewardModelJudge(ScoringJudge):
    """A fixed reward model, which tokenizes the texts itself; it must not be one that trained the policies.

    `cuts` counts the texts that it does not read whole, and `limit` says why.
    """

    def __init__(self, model: ScoresPairs, name: str, *, cuts: Cuts | None = None, limit: str = "") -> None:
        self.name = name
        self._model = model
        self._cuts = cuts or Cuts()
        self._limit = limit

    def remarks(self) -> list[str]:
        return self._cuts.told("answers, with their prompts, as the judge reads them,", self._limit)

    def scores(
        self, prompts: Sequence[Prompt], texts: Sequence[str], finish_reasons: Sequence[str] | None = None
    ) -> list[float]:
        """As `ScoringJudge.scores`. A reward model reads text alone: `finish_reasons` make no difference.

        Raises:
            HealthError: a score is not finite.
        """
        _finish_reasons(prompts, texts, finish_reasons)
        scores = self._model.score_responses(prompts, texts)
        require_finite(scores, "a score", model=self.name, place=lambda index: f"prompt {prompts[index].prompt_id}")
        return scores


def preferences(
    scores_1: Sequence[float], scores_2: Sequence[float], outputs_1: Sequence[str], outputs_2: Sequence[str]
) -> list[float | None]:
    """Preferences in {1, 1.5, 2} from scores: 2 = output 2 is better; equal texts or scores are draws.

    Raises:
        DataError: if a score is NaN, which compares as a silent loss.
    """
    result: list[float | None] = []
    for row, (one, two, text_1, text_2) in enumerate(zip(scores_1, scores_2, outputs_1, outputs_2, strict=True)):
        if math.isnan(one) or math.isnan(two):
            raise DataError(
                "a judge gave no number", where=f"answer {row + 1}", found=f"{one} and {two}", mend="ask another judge"
            )
        if text_1 == text_2 or one == two:
            result.append(DRAW)
        else:
            result.append(2.0 if two > one else 1.0)
    return result


def draw_label(score_a: float, score_b: float, noise: LabelNoiseConfig, draw: float) -> str | None:
    """The simulated annotator: which of two answers it prefers, "a" or "b".

    Args:
        noise: `temperature` > 0: "a" with probability sigmoid((score_a - score_b) / temperature), the
            Bradley-Terry annotator. Otherwise the better score wins, and the label is flipped with
            probability `flip_share` (AlpacaFarm's noise is 0.25: with probability 1/2 a fair coin, METHOD 6.2).
        draw: uniform in [0, 1), keyed by the pair.

    Returns:
        None for equal scores under `flip_share`: nothing to prefer, so no pair.
    """
    if noise.temperature > 0:
        log_odds = (score_a - score_b) / noise.temperature
        return "a" if draw < 0.5 * (1 + math.tanh(log_odds / 2)) else "b"  # tanh form: exp would overflow
    if score_a == score_b:
        return None
    flipped = draw < noise.flip_share
    return "a" if (score_a > score_b) != flipped else "b"


def _finish_reasons(
    prompts: Sequence[Prompt], texts: Sequence[str], finish_reasons: Sequence[str] | None
) -> Sequence[str]:
    reasons = ["stop"] * len(texts) if finish_reasons is None else finish_reasons
    assert len(prompts) == len(texts) == len(reasons), "prompts, texts and finish reasons are one row each"
    return reasons


def best_of(scores: Sequence[Sequence[float]]) -> list[int]:
    """Index of the highest score of each prompt's answers; the earlier of equals (best-of-n, METHOD 7.46)."""
    return [int(np.argmax(row)) for row in scores]
