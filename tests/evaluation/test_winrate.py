from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from rlp_engine.errors import DataError
from rlp_engine.evaluation.winrate import mean_and_standard_error, paired_bootstrap, win_rate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
LEADERBOARD_NAMES = {
    "text_davinci_001": "Davinci001",
    "alpaca-7b": "Alpaca 7B",
    "alpaca-farm-ppo-human": "Alpaca Farm PPO Human 7B",
    "phi-2": "Phi 2",
    "vicuna-7b": "Vicuna 7B",
    "gpt-3.5-turbo-0301": "GPT 3.5 Turbo (03/01)",
}


def test_numbers_worked_by_hand() -> None:
    # p - 1 = 1, 0, 1/2, 1: mean 0.625; squared deviations sum to 0.6875, / 3, root 0.478714, / 2 = 0.239357
    result = win_rate([2, 1, 1.5, 2])
    assert result.win_rate == pytest.approx(62.5, abs=1e-12)
    assert result.standard_error == pytest.approx(23.9357, abs=1e-4)
    assert (result.wins, result.losses, result.draws, result.n, result.dropped) == (2, 1, 1, 4, 0)


def test_unread_judgements_are_dropped_not_lost() -> None:
    result = win_rate([2, None, math.nan, 1])
    assert (result.win_rate, result.n, result.dropped, result.losses) == (50.0, 2, 2, 1)


def test_an_old_zero_is_a_draw() -> None:
    assert win_rate([0, 0, 2]).draws == 2
    assert win_rate([0, 0]).win_rate == 50.0


def test_a_probability_counts_as_its_share() -> None:
    result = win_rate([1.25, 1.75, 1.9])
    assert result.win_rate == pytest.approx(100 * (0.25 + 0.75 + 0.9) / 3)
    assert (result.wins, result.losses) == (2, 1)


def test_standard_error_at_one_half_is_that_of_the_method_page() -> None:
    for count, points in ((805, 1.76), (100, 5.0), (80, 5.6)):  # METHOD 6.1
        assert win_rate([1, 2] * (count // 2) + [1.5] * (count % 2)).standard_error == pytest.approx(points, abs=0.04)


@pytest.mark.parametrize("wrong", [0.5, 2.01, -1, math.inf])
def test_a_number_outside_one_to_two_is_refused_with_its_row(wrong: float) -> None:
    with pytest.raises(DataError, match="1 of 3 preferences") as caught:
        win_rate([1, 2, wrong])
    assert caught.value.where == "row 3"


def test_no_judgement_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no judgement"):
        win_rate([None, None])


def test_one_judgement_has_no_standard_error() -> None:
    assert win_rate([2]).standard_error is None


@pytest.mark.parametrize(
    ("annotator", "board", "models"),
    [
        ("alpaca_eval_gpt4", "leaderboard_alpaca_eval_gpt4.csv", 5),
        ("weighted_alpaca_eval_gpt4_turbo", "leaderboard_weighted_alpaca_eval_gpt4_turbo.csv", 6),
    ],
)
def test_published_leaderboards_are_reproduced(annotator: str, board: str, models: int) -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared evaluation data are not beside this checkout")
    parquet = pytest.importorskip("pyarrow.parquet")
    with (SHARED / board).open(newline="") as file:
        published = {row["name"]: float(row["win_rate"]) for row in csv.DictReader(file)}
    preferences: dict[str, list[float]] = {}
    for row in parquet.read_table(SHARED / "annotations_numeric_6models.parquet").to_pylist():
        if row["annotator"] == annotator:
            preferences.setdefault(row["generator"], []).append(row["preference"])
    found = {LEADERBOARD_NAMES[name]: win_rate(values).win_rate for name, values in preferences.items()}
    assert len(found) == models
    for name, rate in found.items():
        # some leaderboard figures are printed with 8 decimals
        assert rate == pytest.approx(published[name], abs=1e-7), name


def test_paired_difference_is_the_difference_of_the_win_rates() -> None:
    a, b = [2, 2, 1, 1.5, 2], [1, 2, 1, 1, 1.5]
    result = paired_bootstrap(a, b, key=(1,))
    assert result.difference == pytest.approx(win_rate(a).win_rate - win_rate(b).win_rate)
    assert result.n == 5
    assert result.low < result.difference < result.high


def test_bootstrap_interval_agrees_with_the_normal_one_on_many_instructions() -> None:
    random = np.random.default_rng(0)
    a, b = random.uniform(1, 2, 4000), random.uniform(1, 2, 4000)
    result = paired_bootstrap(a, b, key=("seed", 3))
    expected = 100 * (a - b).std(ddof=1) / math.sqrt(4000)
    assert result.standard_error == pytest.approx(expected, rel=1e-9)
    assert result.high - result.low == pytest.approx(2 * 1.96 * expected, rel=0.05)  # 10,000 resamples: error about 1%
    assert (result.low + result.high) / 2 == pytest.approx(result.difference, abs=0.1 * expected)


def test_pairing_takes_the_shared_difficulty_away() -> None:
    random = np.random.default_rng(1)
    hard = random.uniform(1.2, 1.8, 300)
    a, b = hard + 0.05 + random.normal(0, 0.01, 300), hard + random.normal(0, 0.01, 300)
    result = paired_bootstrap(a, b, key=(0,))
    assert result.low > 4
    assert result.high < 6
    assert result.standard_error < win_rate(a).standard_error / 5


def test_the_interval_is_the_same_every_time_and_another_with_another_key() -> None:
    a, b = [2, 1, 1.5, 2, 1, 1, 2], [1, 1, 2, 2, 1.5, 1, 1]
    assert paired_bootstrap(a, b, key=(7, "x")) == paired_bootstrap(a, b, key=(7, "x"))
    random = np.random.default_rng(2)
    a, b = random.uniform(1, 2, 60), random.uniform(1, 2, 60)
    assert paired_bootstrap(a, b, key=(7,)).low != paired_bootstrap(a, b, key=(8,)).low


def test_rows_that_one_side_lacks_are_left_out_of_both() -> None:
    result = paired_bootstrap([2, None, 1], [1, 2, None], key=(0,))
    assert (result.difference, result.n) == (100.0, 1)


def test_other_instructions_are_refused() -> None:
    with pytest.raises(DataError, match="different instructions"):
        paired_bootstrap([1, 2], [1], key=(0,))
    with pytest.raises(DataError, match="no instruction"):
        paired_bootstrap([None, 2], [1, None], key=(0,))


def test_mean_over_seeds() -> None:
    mean, error = mean_and_standard_error([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert error == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(mean_and_standard_error([1.0])[1])
    with pytest.raises(DataError):
        mean_and_standard_error([])
