"""What is said of a reward model on labelled pairs, worked by hand on four of them."""

from __future__ import annotations

import math

import pytest

from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.errors import DataError
from rlp_engine.evaluation.pair_report import accuracy, calibration, report, scored


def pair(instruction: str, chosen: str, rejected: str, rewards: tuple[float, float], subset: str = "", **meta):
    prompt = Prompt("p", instruction, meta={"subset": subset} if subset else {})
    return scored(PreferencePair(prompt, chosen, rejected, meta=meta), *rewards)


FOUR = [
    pair("a", "long answer", "short", (2.0, 0.0), "x"),
    pair("b", "no", "never ever", (1.0, 2.0), "y"),
    pair("c", "same", "size", (1.0, 1.0), "y"),
    pair("a", "long answer", "other", (2.0, 1.0), "x"),
]


def test_accuracy_counts_a_tie_as_half_and_prompts_as_clusters():
    found = accuracy(FOUR)
    assert (found["accuracy"], found["n"]) == (0.625, 4)
    # Prompt a: 2 right of 2, 0.75 more than expected; b: -0.625; c: -0.125.
    assert found["standard_error"] == pytest.approx(math.sqrt(1.5 * (0.75**2 + 0.625**2 + 0.125**2)) / 4)
    assert accuracy([])["accuracy"] is None


def test_subsets_lengths_and_loss():
    found = report(FOUR)
    assert (found["pairs"], found["prompts"]) == (4, 3)
    assert [(row["subset"], row["accuracy"], row["n"]) for row in found["subsets"]] == [("x", 1.0, 2), ("y", 0.25, 2)]
    assert found["lengths"]["longer_chosen"]["accuracy"] == 1.0
    assert found["lengths"]["shorter_chosen"]["accuracy"] == 0.0
    assert found["lengths"]["balanced"] == 0.5
    nats = [math.log1p(math.exp(-2)), math.log1p(math.exp(1)), math.log(2), math.log1p(math.exp(-1))]
    assert found["loss"] == pytest.approx(sum(nats) / 4)


def test_calibration_by_hand():
    found = calibration([2.0, -1.0, 0.0, 1.0])
    sure, unsure = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))
    # The tie: confidence 1/2 and half right, no gap. Two at 0.731, one of them right. One at 0.881, right.
    assert found["expected_calibration_error"] == pytest.approx(0.5 * (unsure - 0.5) + 0.25 * (1 - sure))
    counts = {row["low"]: (row["n"], row["accuracy"]) for row in found["bins"] if row["n"]}
    assert counts == {0.5: (1, 0.5), 0.7: (2, 0.5), 0.85: (1, 1.0)}
    assert found["bins"][0]["confidence"] == 0.5
    assert found["bins"][-1] == {"low": 0.95, "high": 1.0, "n": 0, "confidence": None, "accuracy": None}


def test_a_model_that_is_sure_and_right_is_calibrated_and_swapping_all_pairs_is_not():
    assert calibration([50.0] * 3)["expected_calibration_error"] == pytest.approx(0, abs=1e-12)
    assert calibration([-50.0] * 3)["expected_calibration_error"] == pytest.approx(1)


def test_length_correlation_within_prompts():
    found = report(FOUR)["length_correlation"]
    # Prompt a: lengths 11, 5, 5 and rewards 2, 0, 1: 1.5 / sqrt(1.5 * 2). Prompt b: 1. Prompt c: left out.
    assert found["spearman_within"] == pytest.approx((1.5 / math.sqrt(3) + 1) / 2)
    assert found["longer_preferred"] == 1.0
    assert found["answers"] == 7


def test_a_prompts_own_level_does_not_count_within_prompts():
    rows = [pair("a", "x" * 9, "x" * 8, (0.0, 1.0)), pair("b", "x" * 99, "x" * 98, (100.0, 101.0))]
    found = report(rows)["length_correlation"]
    assert found["pearson"] > 0.99
    assert found["pearson_within"] == pytest.approx(-1)
    assert found["spearman_within"] == pytest.approx(-1)


def test_a_gamed_judge_is_told_from_a_gamed_model():
    names = {"generator_1": "reference", "generator_2": "null"}
    rows = [  # the label prefers the null model in both; this model prefers it in one
        pair("a", "null text", "an answer", (0.0, 1.0), preference=2.0, **names),
        pair("b", "null text", "an answer", (1.0, 0.0), preference=1.9, **names),
    ]
    found = {row["generator"]: row for row in report(rows)["generators"]}
    assert (found["null"]["preferred_by_model"], found["null"]["preferred_by_label"]) == (0.5, 1.0)
    assert (found["reference"]["preferred_by_model"], found["reference"]["preferred_by_label"]) == (0.5, 0.0)
    assert report(FOUR)["generators"] == []


def test_a_reward_that_is_no_number_names_its_prompt():
    with pytest.raises(DataError, match="no number") as caught:
        pair("what is it", "a", "b", (math.nan, 0.0))
    assert "what is it" in caught.value.where
