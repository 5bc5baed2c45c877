from __future__ import annotations

import math

import numpy as np
import pytest

from rlp_engine.evaluation.drift import Answers, classifier_auc, describe, frechet_distance

BASE = np.random.default_rng(5).normal(size=(300, 8)) @ np.random.default_rng(6).normal(size=(8, 8))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def test_distance_to_itself_is_zero_and_to_a_shift_its_square() -> None:
    shift = np.array([3.0, 4.0, 0, 0, 0, 0, 0, 0])
    assert frechet_distance(BASE, BASE) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(BASE, BASE + shift) == pytest.approx(25, abs=1e-8)


def test_scaling_by_two_costs_the_trace_of_the_covariance() -> None:
    # S -> 4 S: tr(S + 4 S - 2 * 2 S) = tr S; centred, so that the means do not move
    centred = BASE - BASE.mean(axis=0)
    assert frechet_distance(centred, 2 * centred) == pytest.approx(np.trace(np.cov(BASE.T)), rel=1e-10)


@pytest.mark.parametrize(("rows_a", "rows_b"), [(200, 150), (12, 9), (200, 9)])
def test_agrees_with_the_matrix_square_root(rows_a: int, rows_b: int, random: np.random.Generator) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = random.normal(size=(rows_a, 20)), 0.5 * random.normal(size=(rows_b, 20)) + 0.3
    s_a, s_b = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(linalg.sqrtm(s_a + 0j) @ s_b @ linalg.sqrtm(s_a + 0j)).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s_a + s_b - 2 * root)
    # fewer rows than columns: the square root of a singular matrix is good to about 1e-6 only
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_distance_is_symmetric(random: np.random.Generator) -> None:
    other = random.normal(size=(100, 8))
    assert frechet_distance(BASE, other) == pytest.approx(frechet_distance(other, BASE), rel=1e-10)


def test_a_classifier_cannot_tell_equal_sides_apart_and_can_tell_shifted_ones(random: np.random.Generator) -> None:
    a, b = random.normal(size=(400, 5)), random.normal(size=(400, 5))
    assert classifier_auc(a, b, seed=1) == pytest.approx(0.5, abs=0.08)
    assert classifier_auc(a, b + np.array([9, 0, 0, 0, 0]), seed=1) == pytest.approx(1.0, abs=1e-6)
    # one standard deviation in one direction: AUC = Phi(1 / sqrt 2) = 0.760
    assert classifier_auc(a, b + np.array([1, 0, 0, 0, 0]), seed=1) == pytest.approx(0.760, abs=0.06)


def test_samples_of_one_prompt_are_not_tested_on_their_twins(random: np.random.Generator) -> None:
    def side(name: str) -> tuple[np.ndarray, list[str]]:
        prompts = random.normal(size=(20, 60))
        vectors = np.repeat(prompts, 10, axis=0) + 0.01 * random.normal(size=(200, 60))
        return vectors, [f"{name}{i // 10}" for i in range(200)]

    (a, groups_a), (b, groups_b) = side("a"), side("b")
    leaking = classifier_auc(a, b, seed=1)
    honest = classifier_auc(a, b, seed=1, groups_a=groups_a, groups_b=groups_b)
    assert leaking > 0.95  # the sides have the same distribution: this is memory of the prompts
    assert honest < 0.75


def test_too_few_prompts_give_no_number(random: np.random.Generator) -> None:
    a = random.normal(size=(6, 3))
    assert math.isnan(classifier_auc(a, a, seed=0, groups_a=["one"] * 6, groups_b=list("abcdef")))


def answers(vectors: np.ndarray, name: str) -> Answers:
    count = len(vectors)
    return Answers(
        rewards=[float(i) for i in range(count)],
        tokens=[2 * i for i in range(count)],
        characters=[10] * count,
        vectors_ND=vectors,
        prompts=[f"{name}{i}" for i in range(count)],
    )


def test_a_described_side_has_its_means_and_its_distance_from_the_base() -> None:
    base = answers(BASE, "base")
    alone = describe(base, None, limit=1000, seed=0)
    assert alone == {
        "reward_mean": 149.5,
        "reward_std": pytest.approx(math.sqrt((300**2 - 1) / 12)),
        "tokens_mean": 299.0,
        "characters_mean": 10.0,
        "frechet": None,
        "classifier_auc": None,
    }
    near = describe(answers(BASE + 0.1, "sft"), base, limit=1000, seed=0)
    far = describe(answers(BASE + 5.0, "policy"), base, limit=1000, seed=0)
    assert near["frechet"] < far["frechet"]
    assert near["classifier_auc"] < far["classifier_auc"]


def test_both_sides_use_equally_many_vectors_however_many_there_are(random: np.random.Generator) -> None:
    # two finite samples of one distribution are apart, the more so the fewer they are
    small, large = random.normal(size=(40, 8)), random.normal(size=(2000, 8))

    def mean_distance(a: np.ndarray, b: np.ndarray, limit: int) -> float:
        rows = [describe(answers(a, "a"), answers(b, "b"), limit=limit, seed=seed) for seed in range(8)]
        return float(np.mean([row["frechet"] for row in rows]))

    equal = mean_distance(small, large, limit=5000)
    assert equal > 1.3 * frechet_distance(small, large)  # unequal sides would seem nearer
    assert mean_distance(large, small, limit=20) > 1.3 * equal
