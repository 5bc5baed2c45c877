from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rlp_engine.config.sections.judging import LabelNoiseConfig
from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError
from rlp_engine.evaluation.judges import GoldJudge, RewardModelJudge, best_of, draw_label, preferences
from rlp_engine.randomness import uniforms

PROMPTS = [Prompt(str(i), f"instruction {i}") for i in range(3)]


def length_gold(prompt: Prompt, text: str, finish_reason: str) -> float:
    return len(text) + 10 * int(prompt.prompt_id) - (1.0 if finish_reason == "length" else 0.0)


class LengthScorer:
    def score_responses(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in responses]


def test_gold_sees_the_prompt_the_text_and_how_it_ended() -> None:
    judge = GoldJudge(length_gold)
    assert judge.scores(PROMPTS, ["a", "bb", "ccc"]) == [1.0, 12.0, 23.0]
    assert judge.scores(PROMPTS, ["a", "bb", "ccc"], ["stop", "length", "stop"]) == [1.0, 11.0, 23.0]


def test_the_better_score_wins_and_two_means_the_second() -> None:
    judge = GoldJudge(length_gold)
    assert judge.compare(PROMPTS, ["a", "bbb", "cc"], ["aa", "b", "dd"]) == [2.0, 1.0, 1.5]


def test_swapping_the_outputs_mirrors_the_preference() -> None:
    judge = RewardModelJudge(LengthScorer(), "a reward model")
    one, two = ["a", "bbb", "cc"], ["aa", "b", "cc"]
    forward, backward = judge.compare(PROMPTS, one, two), judge.compare(PROMPTS, two, one)
    assert [3 - p for p in forward] == backward
    assert forward[0] == 2.0


def test_equal_texts_are_a_draw_whatever_their_scores() -> None:
    assert preferences([1.0], [2.0], ["same"], ["same"]) == [1.5]


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="gave no number") as caught:
        preferences([1.0, math.nan], [2.0, 1.0], ["a", "b"], ["c", "d"])
    assert caught.value.where == "answer 2"


def test_a_reward_model_cannot_see_how_an_answer_ended() -> None:
    judge = RewardModelJudge(LengthScorer(), "rm")
    assert judge.scores(PROMPTS[:1], ["abc"], ["length"]) == judge.scores(PROMPTS[:1], ["abc"]) == [3.0]


def label_share(score_a: float, score_b: float, noise: LabelNoiseConfig) -> float:
    labels = [draw_label(score_a, score_b, noise, draw) for draw in uniforms(20_000, "labels")]
    return np.mean([label == "a" for label in labels])


def test_without_noise_the_better_score_wins_and_equal_scores_give_no_pair() -> None:
    exact = LabelNoiseConfig()
    assert draw_label(2.0, 1.0, exact, 0.0) == "a"
    assert draw_label(1.0, 2.0, exact, 0.999) == "b"
    assert draw_label(1.0, 1.0, exact, 0.3) is None


def test_flip_share_is_the_share_of_wrong_labels() -> None:
    noise = LabelNoiseConfig(flip_share=0.25)
    assert label_share(2.0, 1.0, noise) == pytest.approx(0.75, abs=0.012)  # four standard errors
    assert label_share(1.0, 2.0, noise) == pytest.approx(0.25, abs=0.012)


def test_temperature_labels_are_bradley_terry() -> None:
    noise = LabelNoiseConfig(temperature=0.8)
    expected = 1 / (1 + math.exp(-(1.5 - 1.0) / 0.8))
    assert label_share(1.5, 1.0, noise) == pytest.approx(expected, abs=0.014)
    assert label_share(1.0, 1.0, noise) == pytest.approx(0.5, abs=0.015)


def test_huge_score_differences_do_not_overflow() -> None:
    noise = LabelNoiseConfig(temperature=0.01)
    assert draw_label(1e6, -1e6, noise, 0.999999) == "a"
    assert draw_label(-1e6, 1e6, noise, 0.0) == "b"


def test_best_of_takes_the_first_of_equals() -> None:
    assert best_of([[1.0, 3.0, 3.0], [2.0]]) == [1, 0]
