"""Algorithm 1 whole, through the command line, on a model of a few thousand parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import outputs, rlp, sets
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

STAGES = {
    "prepare",
    "sft",
    "collect",
    "train-rm",
    "ppo",
    "round-1/sample",
    "round-1/embed",
    "round-1/uml/refine-rm",
    "round-1/uml/ppo",
    "round-1/spg/synthesize",
    "round-1/spg/refine-rm",
    "round-1/spg/ppo",
    "round-1/reseed/refine-rm",
    "round-1/reseed/ppo",
    "evaluate",
}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_stage_is_there_and_none_is_half_done(finished_run: Path):
    assert set(outputs(finished_run)) == STAGES
    assert not list(finished_run.rglob("*.partial"))
    assert not list(finished_run.rglob("*.tmp"))


def test_the_same_command_again_does_nothing(finished_run: Path):
    before = outputs(finished_run)
    events = (finished_run / "events.jsonl").read_text()
    rlp("run", finished_run)
    assert outputs(finished_run) == before
    started = [row for row in rows(finished_run / "events.jsonl")[len(events.splitlines()) :] if "stage" in row]
    assert started == []
    rlp("status", finished_run, "--check", "--verify")


def test_results_cover_every_policy_and_reward_model(finished_run: Path):
    results = json.loads((finished_run / "evaluate" / "results.json").read_text())
    branches = ["round-1/uml", "round-1/spg", "round-1/reseed"]
    assert [row["name"] for row in results["policies"]] == ["sft", "best-of-3", "ppo", *branches]
    assert [row["name"] for row in results["reward_models"]] == ["train-rm", *branches]
    assert all(0 <= row["win_rate"] <= 100 and row["n"] == results["instructions"] for row in results["policies"])
    assert all(set(row["accuracy"]) == {"sft", "ppo", *branches} for row in results["reward_models"])
    controls = {(row["a"], row["b"]) for row in results["paired"]}
    assert ("round-1/spg", "round-1/reseed") in controls
    assert (finished_run / "report.html").stat().st_size > 10_000


def test_a_policy_that_is_the_sft_policy_has_no_kl(finished_run: Path):
    results = json.loads((finished_run / "evaluate" / "results.json").read_text())
    kl = {row["name"]: row["kl"] for row in results["policies"]}
    assert kl["sft"] is None
    assert kl["ppo"] != 0.0


def test_every_prompt_has_a_decision_and_every_accepted_one_a_pair(finished_run: Path):
    folder = finished_run / "round-1" / "spg" / "synthesize"
    decisions, pairs = rows(folder / "decisions.jsonl"), rows(folder / "pairs.jsonl")
    prompts = rows(finished_run / "prepare" / "unlabeled.jsonl")
    assert [row["prompt_id"] for row in decisions] == [row["prompt_id"] for row in prompts]
    assert {row["reason"] for row in decisions} <= {"accepted", "low-confidence", "one-cluster"}
    accepted = [row for row in decisions if row["reason"] == "accepted"]
    assert [row["prompt"]["prompt_id"] for row in pairs] == [row["prompt_id"] for row in accepted]
    for decision, pair in zip(accepted, pairs, strict=True):
        clusters = decision["cluster_ids"]
        assert clusters[decision["chosen"]] == decision["largest_cluster"] != clusters[decision["rejected"]]
        assert decision["texts"][decision["chosen"]] == pair["chosen"]
        assert max(map(clusters.count, clusters)) / len(clusters) == pytest.approx(decision["confidence"])


def test_the_control_makes_as_many_steps_as_the_method_it_is_compared_with(finished_run: Path):
    summary = {
        name: json.loads((finished_run / "round-1" / name / "refine-rm" / "stage.json").read_text())["summary"]
        for name in ("spg", "reseed", "uml")
    }
    assert summary["spg"]["synthetic_pairs"] > 0
    assert summary["reseed"]["synthetic_pairs"] == 0
    assert summary["reseed"]["optimizer_steps"] == summary["spg"]["optimizer_steps"]


def test_models_load_in_plain_transformers_and_score_alike(finished_run: Path):
    model = AutoModelForSequenceClassification.from_pretrained(finished_run / "train-rm" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "train-rm" / "model")
    instruction = {row["prompt_id"]: row["instruction"] for row in rows(finished_run / "prepare" / "unlabeled.jsonl")}
    samples = rows(finished_run / "round-1" / "sample" / "answers" / "shard_00000.jsonl")
    vectors = load_file(finished_run / "round-1" / "embed" / "vectors" / "shard_00000.safetensors")
    texts = [f"{instruction[row['prompt_id']]}\n{row['text']}" for row in samples]
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(logits, vectors["rewards"], rtol=0, atol=1e-5)
    policy = AutoModelForCausalLM.from_pretrained(finished_run / "round-1" / "spg" / "ppo" / "model")
    assert policy.config.pad_token_id != policy.config.eos_token_id


def test_a_changed_key_reruns_what_depends_on_it_and_keeps_what_it_replaces(finished_run: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    plan = json.loads(rlp("run", copy, "--set", "synthesize.min_confidence=0.3", "--dry-run", "--json").stdout)
    will = {row["stage"]: row["will"] for row in plan["stages"]}
    assert {name for name, word in will.items() if word != "skip"} == {
        "round-1/spg/synthesize",
        "round-1/spg/refine-rm",
        "round-1/spg/ppo",
        "round-1/reseed/refine-rm",
        "round-1/reseed/ppo",
        "evaluate",
    }
    assert outputs(copy) == outputs(finished_run), "--dry-run wrote something"
    rlp("synthesize", copy, "--set", "synthesize.min_confidence=0.3", "--yes")
    assert list((copy / "superseded").rglob("decisions.jsonl"))
    rlp("status", copy, "--check", code=10)


def planned(run_dir: Path, setting: str) -> set[str]:
    """Stages that would run with this --set."""
    plan = json.loads(rlp("run", run_dir, "--set", setting, "--dry-run", "--json").stdout)
    return {row["stage"] for row in plan["stages"] if row["will"] != "skip"}


def test_a_key_of_one_branch_leaves_the_others_alone_and_a_safe_key_all(finished_run: Path):
    assert planned(finished_run, "refine_rm.multi_view.weight=0.1") == {
        "round-1/uml/refine-rm",
        "round-1/uml/ppo",
        "evaluate",
    }
    assert planned(finished_run, "refine_rm.microbatch=16") == set()


def test_views_of_two_wordings_are_made_of_the_facts_of_the_sandbox(finished_run: Path, tmp_path: Path):
    copy = tmp_path / "wordings"
    shutil.copytree(finished_run, copy)
    views = {"views": "wordings", "topic": "fact", "hard_negatives": "only"}
    settings = sets({f"refine_rm.multi_view.{key}": value for key, value in views.items()})
    done = rlp("refine-rm", copy, "--method", "uml", *settings, "--yes", code=4)
    assert "only 6 of 6 topics have two instructions, and 8 are needed for a step" in done.stderr
