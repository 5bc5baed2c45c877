"""Every method beside the three of the default run, AlpacaFarm's ways, and gold against KL."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from tiny_run import TINY, metrics, outputs, recorded, rlp, rows, sets

BRANCHES = ["uml+spg", "mvi", "infomax", "cl", "select-all", "reward-pair", "rlaif"]


@pytest.fixture(scope="module")
def branches_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As AlpacaFarm ran it, from the finished run's reward model on."""
    run_dir = tmp_path_factory.mktemp("runs") / "branches"
    settings = {
        "methods": BRANCHES,
        "fidelity": "alpacafarm",
        "synthesize.equivalence.kind": "exact-match",
        "synthesize.min_confidence": 0.4,
    }
    shared = {key: value for key, value in TINY.items() if not key.endswith("warmup_steps")}
    rlp("init", run_dir, "--preset", "quickstart", *sets(shared | settings))
    for stage in ("prepare", "sft", "collect", "train-rm"):
        shutil.copytree(finished_run / stage, run_dir / stage)
    rlp("run", run_dir)
    return run_dir


def test_every_method_makes_a_reward_model_of_its_own(branches_run: Path):
    made = outputs(branches_run)
    digests = {made[f"round-1/{method}/refine-rm"]["model/model.safetensors"] for method in BRANCHES}
    assert len(digests) == len(BRANCHES)
    results = json.loads((branches_run / "evaluate" / "results.json").read_text())
    assert [row["name"] for row in results["policies"]][3:] == [f"round-1/{method}" for method in BRANCHES]
    assert [row["name"] for row in results["reward_models"]][1:] == [f"round-1/{method}" for method in BRANCHES]


def test_each_method_learns_from_what_it_is_named_after(branches_run: Path):
    inputs = {method: set(recorded(branches_run, f"round-1/{method}/refine-rm")["inputs"]) for method in BRANCHES}
    assert {method for method in BRANCHES if "synthetic_pairs" in inputs[method]} == {
        "uml+spg",
        "select-all",
        "reward-pair",
        "rlaif",
    }
    assert {method for method in BRANCHES if "samples" in inputs[method]} == {"uml+spg", "mvi", "infomax", "cl"}
    last = {m: metrics(branches_run, f"round-1/{m}/refine-rm")[-1] for m in BRANCHES}
    assert {method for method in BRANCHES if "skl" in last[method] and "jsd" in last[method]} >= {"uml+spg"}
    assert "info_nce" in last["cl"]
    assert "multi_view" not in last["select-all"]


def test_select_all_takes_what_low_confidence_left_out_and_reward_pairs_need_no_cluster(branches_run: Path):
    decisions = {
        name: rows(branches_run / "round-1" / name / "synthesize" / "decisions.jsonl")
        for name in ("spg", "select-all", "reward-pair")
    }
    accepted = {name: {r["prompt_id"] for r in all_ if r["reason"] == "accepted"} for name, all_ in decisions.items()}
    assert accepted["spg"] == {
        row["prompt_id"] for row in decisions["select-all"] if row["reason"] == "accepted" and row["confidence"] >= 0.4
    }
    assert accepted["spg"] < accepted["select-all"]
    assert all(row["cluster_ids"] is None for row in decisions["reward-pair"])
    pairs = [row for row in decisions["reward-pair"] if row["reason"] == "accepted"]
    assert pairs
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in pairs)


def test_rlaif_asks_the_sampled_policy_about_the_answers_of_reward_pair(branches_run: Path):
    stage = branches_run / "round-1" / "rlaif" / "synthesize"
    assert recorded(branches_run, "round-1/rlaif/synthesize")["inputs"]["policy"]["stage"] == "ppo"
    asked = {row["prompt_id"]: row for file in (stage / "judgements").iterdir() for row in rows(file)}
    by_reward = {r["prompt_id"]: r for r in rows(branches_run / "round-1/reward-pair/synthesize/decisions.jsonl")}
    decisions = rows(stage / "decisions.jsonl")
    for row in decisions:
        if row["reason"] != "accepted":
            assert row["prompt_id"] not in asked
            continue
        judgement, other = asked[row["prompt_id"]], by_reward[row["prompt_id"]]
        assert {row["chosen"], row["rejected"]} == {judgement["first"], judgement["second"]}
        assert row["chosen"] == judgement["first" if row["preference"] > 0.5 else "second"]
        if other["reason"] == "accepted":
            assert {other["chosen"], other["rejected"]} == {row["chosen"], row["rejected"]}
    statistics = json.loads((stage / "statistics.json").read_text())
    assert statistics["rlaif_asked"] == len(asked) == statistics["accepted"]
    assert 0 < statistics["rlaif_first_label"] < 1


def test_results_tell_what_gold_confirms_and_what_was_gained(branches_run: Path):
    results = json.loads((branches_run / "evaluate" / "results.json").read_text())
    pairs = {row["method"]: row for row in results["synthetic_pairs"]}
    assert list(pairs) == ["uml+spg", "select-all", "reward-pair", "rlaif"]
    for method, row in pairs.items():
        made = "spg" if method == "uml+spg" else method
        assert row["n"] == len(rows(branches_run / "round-1" / made / "synthesize" / "pairs.jsonl"))
        assert 0 <= row["accuracy"] <= 1
    for row in results["policies"][1:]:
        gain = row["gain"]
        assert gain["score"] == pytest.approx(row["mean_score"] - results["policies"][0]["mean_score"])
        assert gain["score"] == pytest.approx(gain["correct"] + gain["style"])
    for row in results["reward_models"]:
        for cell in row["accuracy"].values():
            assert cell["differing"]["n"] <= cell["n"]


def test_exact_match_clusters_are_equal_texts(branches_run: Path):
    def words(text: str) -> list[str]:
        found = [word for word in re.findall(r"\w+", text.casefold()) if word not in ("a", "an", "the")]
        return found or [text]

    shared = 0
    for row in rows(branches_run / "round-1" / "spg" / "synthesize" / "decisions.jsonl"):
        answers = list(zip(map(words, row["texts"]), row["cluster_ids"], strict=True))
        for one, cluster in answers:
            assert [other == cluster for _, other in answers] == [text == one for text, _ in answers]
        shared += len(set(row["cluster_ids"])) < len(answers)
    assert shared, "no two answers were equal, so any rule would pass"


def test_alpacafarms_ways_reach_ppo_and_the_multi_view_loss(branches_run: Path):
    ppo = recorded(branches_run, "ppo")["config"]["ppo"]
    assert (ppo["kl_estimator"], ppo["whiten_rewards"], ppo["mask_padding"]) == ("clamped", "keep-mean", False)
    for row in metrics(branches_run, "ppo"):
        assert row["kl_clamped"] >= max(row["kl"], 0.0)
        assert row["first_ratio_max"] == pytest.approx(1.0, abs=1e-4)
    multi_view = metrics(branches_run, "round-1/uml+spg/refine-rm")
    assert [row["warmup"] for row in multi_view] == [0.0] * len(multi_view)
    assert [row["beta"] for row in multi_view] == [1.0] * len(multi_view)


# Gold against KL, on the validation instructions


@pytest.fixture(scope="module")
def curve_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, str]]]:
    """A finished run that then gets a curve, and what it held before."""
    run_dir = tmp_path_factory.mktemp("runs") / "curve"
    settings = TINY | {"methods": ["spg"], "evaluate.instructions": "validation"}
    rlp("run", run_dir, "--preset", "quickstart", *sets(settings))
    before = outputs(run_dir)
    rlp("run", run_dir, "--yes", *sets({"curve.kl_coefficients": [0.01, 20.0]}))
    return run_dir, before


def test_a_curve_on_a_finished_run_trains_its_policies_and_does_nothing_again(curve_run):
    run_dir, before = curve_run
    after = outputs(run_dir)
    assert after.keys() - before.keys() == {f"{f}ppo-{k}" for f in ("", "round-1/spg/") for k in ("kl0.01", "kl20")}
    assert all(after[stage] == before[stage] for stage in before if stage != "evaluate")


def test_a_larger_weight_of_the_penalty_keeps_the_policy_nearer(curve_run):
    run_dir, _ = curve_run
    first = [metrics(run_dir, stage)[0] for stage in ("ppo-kl0.01", "ppo", "ppo-kl20")]
    assert [row["kl_coefficient"] for row in first] == [0.01, 0.2, 20.0]
    scores = [row["score"] for row in first]
    assert scores[0] == scores[1] == scores[2], "points of a curve draw the same first answers"
    policies = {row["name"]: row for row in json.loads((run_dir / "evaluate/results.json").read_text())["policies"]}
    assert policies["ppo-kl20"]["kl"] < policies["ppo-kl0.01"]["kl"]
    assert "round-1/spg-kl0.01" in policies


def test_validation_instructions_are_judged_when_asked_for(curve_run):
    run_dir, _ = curve_run
    asked = {row["instruction"] for row in rows(run_dir / "prepare" / "validation.jsonl")}
    assert {row["instruction"] for row in rows(run_dir / "evaluate" / "annotations.jsonl")} == asked
