"""Win-rates and comparisons of annotation files: published leaderboards recomputed, and small ones worked by hand."""

from __future__ import annotations

import csv
import math

import pytest
from tiny_run import DATA

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.judgements import Judgement, read_judgements
from rlp_engine.errors import DataError
from rlp_engine.evaluation.annotations import by_contest, by_subset, compare, summary

NUMBERS = DATA / "eval" / "annotations_numeric_6models.parquet"
LEADERBOARDS = ("alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo")


def judgement(instruction: str, preference: float | None, **over) -> Judgement:
    values = {"generator": "a", "reference": "r", "annotator": "j", "subset": "", "characters": 10}
    values |= {"reference_characters": 20, "reference_digest": "", "instruction": instruction}
    return Judgement(**(values | {"preference": preference} | over))


def published(annotator: str) -> dict[str, dict[str, str]]:
    """Rows of a leaderboard by the name of the folder that holds the model's outputs."""
    with (DATA / "eval" / f"leaderboard_{annotator}.csv").open(newline="") as file:
        return {row["samples"].split("/")[-2]: row for row in csv.DictReader(file) if row["samples"]}


@pytest.mark.skipif(not NUMBERS.is_file(), reason="the shared test data (../shared/data) is not here")
def test_published_leaderboards_are_recomputed():
    """Equal to 15 digits: all that a float has for sure; the published ones were summed in another order."""
    contests = by_contest(read_judgements(DataFile(path=str(NUMBERS))))
    checked = 0
    for annotator in LEADERBOARDS:
        board = published(annotator)
        for contest, rows in contests.items():
            if contest.annotator == annotator:
                row, found = board[contest.generator], summary(rows)
                digits = len(row["win_rate"].replace(".", "").lstrip("0"))
                assert found["win_rate"] == pytest.approx(float(row["win_rate"]), rel=10.0 ** -min(digits - 1, 15))
                if len(rows) == 805:  # two files lack 2 of the instructions
                    assert int(found["mean_characters"]) == int(row["avg_length"])
                checked += 1
    assert checked == 11


def test_a_summary_counts_what_it_drops():
    found = summary([judgement("1", 2.0), judgement("2", 1.0), judgement("3", 1.5), judgement("4", None)])
    assert (found["win_rate"], found["n"], found["dropped"]) == (50.0, 3, 1)
    assert found["standard_error"] == pytest.approx(100 * 0.5 / math.sqrt(3))
    assert (found["wins"], found["losses"], found["draws"]) == (1, 1, 1)
    assert (found["mean_characters"], found["mean_reference_characters"]) == (10, 20)


def test_nothing_that_could_be_read_is_null_and_not_an_error():
    found = summary([judgement("1", None, characters=None)])
    assert (found["win_rate"], found["standard_error"], found["n"], found["dropped"]) == (None, None, 0, 1)
    assert found["mean_characters"] is None
    assert summary([judgement("1", 2.0)])["standard_error"] is None


def test_contests_and_subsets_keep_their_order():
    rows = [judgement("1", 2, generator="b", subset="y"), judgement("1", 2, subset="x"), judgement("2", 2, subset="y")]
    assert [contest.generator for contest in by_contest(rows)] == ["b", "a"]
    assert [(name, len(part)) for name, part in by_subset(rows).items()] == [("y", 2), ("x", 1)]


def test_a_comparison_is_matched_by_instruction_and_leaves_out_what_either_lacks():
    a = [judgement("1", 2.0), judgement("2", 2.0), judgement("3", None), judgement("4", 1.0)]
    b = [judgement("2", 1.0), judgement("1", 2.0), judgement("3", 1.0), judgement("5", 1.0)]
    found = compare(a, b, names=("a", "b"), force=False)
    # Instructions 1 and 2: differences 0 and 100, mean 50, std 70.7, / sqrt(2) = 50.
    assert (found.n, found.dropped, found.unmatched) == (2, 1, 2)
    assert (found.win_rate_a, found.win_rate_b, found.difference) == (100, 50, 50)
    assert found.standard_error == pytest.approx(50)
    assert (found.low, found.high) == (0, 100)


def test_an_instruction_that_stands_twice_is_matched_in_order():
    a = [judgement("1", 2.0), judgement("1", 1.0)]
    b = [judgement("1", 2.0), judgement("1", 1.0)]
    found = compare(a, b, names=("a", "b"), force=False)
    assert (found.n, found.difference, found.standard_error) == (2, 0, 0)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"annotator": "k"}, "different annotators"),
        ({"reference": "s"}, "different references"),
        ({"reference_characters": 21}, "different references"),
        ({"reference_digest": "two"}, "different references"),
    ],
)
def test_other_judges_and_references_are_refused_unless_forced(other, what):
    a, b = [judgement("1", 2.0, reference_digest="one")], [judgement("1", 1.0, **({"reference_digest": ""} | other))]
    with pytest.raises(DataError, match=what):
        compare(a, b, names=("a", "b"), force=False)
    assert compare(a, b, names=("a", "b"), force=True).difference == 100


def test_a_reference_with_another_name_and_the_same_text_is_the_same():
    a = [judgement("1", 2.0, reference="reference", reference_digest="one")]
    b = [judgement("1", 1.0, reference="text_davinci_003", reference_digest="one")]
    assert compare(a, b, names=("a", "b"), force=False).n == 1


def test_nothing_in_common_is_an_error():
    with pytest.raises(DataError, match="no instruction in common"):
        compare([judgement("1", 2.0)], [judgement("2", 2.0)], names=("a", "b"), force=True)
