"""What `evaluate` says of reward models and synthetic pairs, with numbers worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.data import DataConfig, SandboxConfig
from rlp_engine.config.sections.ppo import CurveConfig
from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.data.rows import write_jsonl
from rlp_engine.evaluation.judges import GoldJudge
from rlp_engine.evaluation.reward_accuracy import confirmed_share
from rlp_engine.sandbox.data import World
from rlp_engine.stages.branches import is_curve_point, policies
from rlp_engine.stages.evaluate_policies import Judged
from rlp_engine.stages.evaluate_rewards import accuracy_on, judged_pairs, synthetic_pair_results
from rlp_engine.stages.pipeline import build_pipeline


def judged(scores: list[float], correct: list[float] | None) -> Judged:
    parts = [{"correct": value} for value in correct or []]
    return Judged("sft", [], [], [], [], scores, parts, None)


def test_accuracy_on_pairs_that_differ_in_correctness():
    # prompt 1: answers worth 0, 1, 2, the last correct. Rewards 3, 1, 2: only (1, 2) is right: 1/3; of the pairs with
    # the correct one, (0, 2) wrong and (1, 2) right. Prompt 2: 0, .5, 1.6, the last correct; in order: right
    policy = judged([0.0, 1.0, 2.0, 0.0, 0.5, 1.6], [0.0, 0.0, 1.6, 0.0, 0.0, 1.6])
    entry = accuracy_on([3.0, 1.0, 2.0, 0.0, 1.0, 2.0], policy, 3)
    assert (entry["accuracy"], entry["n"]) == (pytest.approx(4 / 6), 6)
    assert (entry["differing"]["accuracy"], entry["differing"]["n"]) == (3 / 4, 4)
    # two prompts, 1 of 2 and 2 of 2 right: residuals -.5 and .5, so sqrt(2 / 1 * .5) / 4
    assert entry["differing"]["standard_error"] == pytest.approx(math.sqrt(2 * 0.5) / 4)


def test_no_pair_is_null_and_another_judge_has_no_correctness():
    assert accuracy_on([1.0, 2.0], judged([1.0, 1.0], None), 2) == {"accuracy": None, "standard_error": None, "n": 0}
    entry = accuracy_on([1.0, 2.0], judged([1.0, 1.5], [0.0, 0.0]), 2)
    assert entry["differing"] == {"accuracy": None, "standard_error": None, "n": 0}


def pair(chosen: str, rejected: str, finish_chosen: str = "stop") -> PreferencePair:
    meta = {"finish_chosen": finish_chosen, "finish_rejected": "stop"}
    return PreferencePair(Prompt("p", "what is the opposite of hot ?"), chosen, rejected, meta=meta)


PAIRS = [
    pair("it is cold .", "it is hot ."),  # right
    pair("i do not know .", "it is cold ."),  # wrong
    pair("it is cold .", "the answer is cold ."),  # as good: a draw
    pair("it is cold", "it is small .", finish_chosen="length"),  # 1.6 - 1 for the missing end > 0: right
    pair("the opposite of hot is cold .", "it is cold .", finish_chosen="length"),  # + 0.6 - 1: wrong
]


@pytest.fixture
def judge() -> GoldJudge:
    return GoldJudge(World(SandboxConfig()).gold)


def test_synthetic_pairs_are_judged_whole_or_cut_off_as_they_were_sampled(judge: GoldJudge, tmp_path):
    gold = [(judge.scores([p.prompt], [p.chosen]), judge.scores([p.prompt], [p.rejected])) for p in PAIRS]
    assert gold[2][0] == gold[2][1]
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    result = confirmed_share(judged_pairs(tmp_path / "pairs.jsonl", judge))
    assert (result.accuracy, result.n) == (0.5, 5)  # 1, 0, 1/2, 1, 0
    assert result.standard_error == pytest.approx(math.sqrt(1 / 4 / 5))  # std of those with N - 1: 1/2


def test_methods_that_share_their_pairs_have_a_row_each(judge: GoldJudge, tmp_path):
    write_jsonl(tmp_path / "spg.jsonl", PAIRS)
    write_jsonl(tmp_path / "all.jsonl", PAIRS[:1])
    said: list[str] = []
    context = SimpleNamespace(
        spec=SimpleNamespace(name="evaluate"),
        reporter=SimpleNamespace(line=said.append),
        inputs={
            "policy:ppo": tmp_path,
            "pairs:round-1/spg": tmp_path / "spg.jsonl",
            "pairs:round-1/uml+spg": tmp_path / "spg.jsonl",
            "pairs:round-1/select-all": tmp_path / "all.jsonl",
        },
    )
    rows = synthetic_pair_results(context, judge)
    assert [(row["name"], row["method"], row["accuracy"], row["n"]) for row in rows] == [
        ("round-1/spg", "spg", 0.5, 5),
        ("round-1/uml+spg", "uml+spg", 0.5, 5),
        ("round-1/select-all", "select-all", 1.0, 1),
    ]
    assert rows[2]["standard_error"] is None
    assert len(said) == 2


def test_evaluate_reads_the_pairs_of_every_method_that_makes_some():
    config = RunConfig(
        methods=["uml", "uml+spg", "rlaif", "reseed"],
        rounds=2,
        data=DataConfig(source="sandbox"),
        refine_rm={"reseed": {"match": "rlaif"}},
        curve=CurveConfig(kl_coefficients=[0.5]),
    )
    evaluate = build_pipeline(config)[-1]
    pairs = {item.name: item.stage for item in evaluate.inputs if item.name.startswith("pairs:")}
    assert pairs == {
        "pairs:round-1/uml+spg": "round-1/spg/synthesize",
        "pairs:round-1/rlaif": "round-1/rlaif/synthesize",
        "pairs:round-2/uml+spg": "round-2/uml+spg/synthesize",
        "pairs:round-2/rlaif": "round-2/rlaif/synthesize",
    }
    assert {name for name in policies(config) if is_curve_point(name)} == {
        f"{name}-kl0.5" for name in policies(config) if not is_curve_point(name)
    }
