"""`rlp winrate` and `rlp compare` on annotation files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Three models against one reference on four instructions of two subsets."""
    preferences = {"a": [2, 2, 1, 2], "b": [1, 2, 1, None], "c": [1, 1, 1, 1]}
    found = {}
    for name, values in preferences.items():
        rows = [
            {
                "instruction": f"Do {i}.",
                "output_1": "ref",
                "output_2": name * 5,
                "generator_1": "r",
                "generator_2": name,
            }
            | {"annotator": "k" if name == "c" else "j", "preference": p, "dataset": "x" if i % 2 else "y"}
            for i, p in enumerate(values)
        ]
        found[name] = tmp_path / f"{name}.json"
        found[name].write_text(json.dumps(rows))
    return found


def test_winrates_of_files_by_subset(rlp, files):
    done = rlp("winrate", files["a"], files["b"], "--subsets")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1] == ["a", "r", "j", "all", "75.00", "25.00", "3", "1", "0", "4", "0", "5", "3"]
    assert lines[2][3:5] == ["y", "50.00"]
    assert lines[4][3:11] == ["all", "33.33", "33.33", "1", "2", "0", "3", "1"]
    found = json.loads(rlp("winrate", files["b"], "--json").stdout)["win_rates"]
    assert [(row["generator"], row["n"], row["dropped"]) for row in found] == [("b", 3, 1)]
    assert [row["subset"] for row in found[0]["subsets"]] == ["y", "x"]


def test_two_files_are_compared_where_both_were_judged(rlp, files):
    (found,) = json.loads(rlp("compare", files["a"], files["b"], "--json").stdout)["comparisons"]
    assert (found["a"], found["b"], found["n"], found["dropped"]) == ("a", "b", 3, 1)
    assert found["difference"] == pytest.approx(100 / 3)
    assert found["low"] <= found["difference"] <= found["high"]
    done = rlp("compare", files["a"], files["b"], "--subset", "y")
    assert done.stdout.splitlines()[1].split()[:5] == ["a", "b", "50.00", "0.00", "+50.00"]


def test_what_cannot_be_compared_says_why(rlp, files, tmp_path):
    assert "different annotators" in rlp("compare", files["a"], files["c"], code=4).stderr
    assert "a" in rlp("compare", files["a"], files["c"], "--force").stdout
    assert "has no subset 'z'" in rlp("compare", files["a"], files["b"], "--subset", "z", code=3).stderr
    assert "is not a run directory" in rlp("compare", tmp_path, code=3).stderr
