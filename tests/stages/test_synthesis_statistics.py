"""What `synthesize` reports, with numbers worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.methods.synthetic_preferences import choose_pair
from rlp_engine.stages.rlaif import Judgement
from rlp_engine.stages.synthesis_statistics import entropies, fact_lines, statistics_of, sums_of, tell
from rlp_engine.stages.synthesize import PromptAnswers, Row

LN2 = math.log(2)


def row(cluster_ids: list[int] | None, mean_logprobs: list[float], judgement: Judgement | None = None) -> Row:
    answers = [f"answer {i}" for i in range(len(mean_logprobs))]
    group = PromptAnswers(Prompt("p", "?"), answers, ["stop"] * len(answers), mean_logprobs)
    decision = choose_pair(cluster_ids or [0, 1], [0.0] * len(answers), 0.5, 0.0)
    return Row(group, cluster_ids, judgement, decision)


def test_entropies_worked_by_hand():
    # two clusters of two answers; masses 1/2 + 1/2 = 1 and 1/4 + 1/4 = 1/2, so q = 2/3, 1/3
    got = entropies([0, 0, 1, 1], [-LN2, -LN2, -2 * LN2, -2 * LN2])
    assert got["discrete"] == pytest.approx(LN2)
    assert got["semantic"] == pytest.approx(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))
    assert got["kuhn"] == pytest.approx(LN2 / 2)  # -(ln 1 + ln 1/2) / 2


def test_one_cluster_has_no_entropy_and_no_negative_zero():
    got = entropies([0, 0], [-LN2, -LN2])
    assert got == {"discrete": 0.0, "semantic": 0.0, "kuhn": 0.0}
    assert {math.copysign(1, value) for value in got.values()} == {1.0}


def test_means_are_over_the_prompts():
    statistics = statistics_of(sums_of([row([0, 0], [-LN2, -LN2]), row([0, 1], [-LN2, -LN2])], []))
    assert statistics["entropy_discrete"] == pytest.approx(LN2 / 2)
    assert statistics["entropy_semantic"] == pytest.approx(LN2 / 2)
    assert statistics["entropy_kuhn"] == pytest.approx(LN2 / 2)  # (0 + ln 2) / 2
    assert "rlaif_asked" not in statistics


def test_all_that_is_to_be_told_of_clusters_is_told():
    # entropies: 3/2 ln 2, 0 and ln 4 by counts; by Kuhn's 1 - ln(2)/3, 1 - ln 4 and 1
    lines: list[str] = []
    context = SimpleNamespace(
        spec=SimpleNamespace(name="round-1/spg/synthesize"), reporter=SimpleNamespace(line=lines.append)
    )
    rows = [row([0, 0, 1, 2], [-1.0] * 4), row([0, 0, 0, 0], [-1.0] * 4), row([0, 1, 2, 3], [-1.0] * 4)]
    pairs = [PreferencePair(Prompt("p", "?"), "four", "fourteen")]
    counts = {"comparisons": 9, "naive_comparisons": 13, "nli_calls": 17, "nli_truncated": 2, "nli_questions_cut": 0}
    tell(context, statistics_of(sums_of(rows, pairs)) | counts)
    assert lines == [
        "round-1/spg/synthesize: 1 of 3 prompts give a pair",
        "  confidence 0.25       1  ##############################",
        "  confidence 0.50       1  ##############################",
        "  confidence 1.00       1  ##############################",
        "  accepted: 33.3%",
        "  one cluster only: 33.3%",
        "  low confidence: 33.3%",
        "  pairs whose y_l has the higher reward: 0.0%",
        "  mean characters: y_w 4, y_l 8",
        "  mean semantic entropy, nats: 0.81 by counts, 0.81 by likelihood, 0.46 Kuhn",
        "  comparisons: 9 (naive: 13)",
        "  NLI calls: 17 (naive: 26)",
        "  NLI pairs cut to synthesize.equivalence.max_length: 2",
        "  questions cut to synthesize.equivalence.question_tokens: 0",
    ]


def test_of_rlaif_the_policys_certainty_and_bias_are_told():
    sure = Judgement("p", 0, 1, (math.log(0.9), math.log(0.1)), (math.log(0.1), math.log(0.9)), shortened=True)
    biased = Judgement("q", 0, 1, (math.log(0.9), math.log(0.1)), (math.log(0.9), math.log(0.1)), shortened=False)
    rows = [
        row(None, [-1.0, -1.0], judgement)._replace(decision=choose_pair([0, 1], [0.0, 0.0], 0.0, 0.0))
        for judgement in (sure, biased)
    ]
    lines = fact_lines(statistics_of(sums_of(rows, [])) | {"confidence_histogram": {}})
    assert lines == [
        "accepted: 100.0%",
        "equal: no pair: 0.0%",
        "pairs whose y_l has the higher reward: 0.0%",
        "the judge is 75% sure of its preference, or surer: 50.0%",
        "it prefers the same answer in both orders: 50.0%",
        "mean probability of the first label (50%: no position bias): 70.0%",
        "comparisons with an answer cut to synthesize.rlaif.max_length: 1",
        "comparisons whose judgement cannot be read: 0",
    ]
