"""The quickstart really learns: what SANDBOX found safe to say of one seed. Which method wins is not asserted."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tiny_run import rlp

from rlp_engine.config.sections.data import SandboxConfig
from rlp_engine.data.rows import read_prompts
from rlp_engine.methods.synthetic_preferences import Decision, choose_pair, choose_reward_pair
from rlp_engine.randomness import uniforms
from rlp_engine.sandbox.data import World


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset as it is, with one branch."""
    run_dir = tmp_path_factory.mktemp("runs") / "quickstart"
    rlp("run", "--preset", "quickstart", run_dir, "--set", 'methods=["spg"]')
    return run_dir


def test_ppo_beats_the_sft_policy_and_keeps_near_it(quickstart: Path):
    results = json.loads((quickstart / "evaluate" / "results.json").read_text())
    policies = {row["name"]: row for row in results["policies"]}
    assert policies["ppo"]["mean_score"] > policies["sft"]["mean_score"]
    (ppo_sft,) = [row for row in results["paired"] if (row["a"], row["b"]) == ("ppo", "sft")]
    assert ppo_sft["low"] > 0, "the win-rate's paired interval must lie above 0"
    assert 0.1 < policies["ppo"]["kl"] < 20


def test_reward_models_order_unseen_pairs(quickstart: Path):
    for stage in ("train-rm", "round-1/spg/refine-rm"):
        summary = json.loads((quickstart / stage / "stage.json").read_text())["summary"]
        # about 20% of the labels are noise, so 0.8 is the most that can be hoped for; 150 pairs: standard error 0.04
        assert summary["held_out_accuracy"] > 0.5 + 2 * 0.04


def test_clustering_makes_better_pairs_than_the_reward_alone(quickstart: Path):
    """The order of the paper's Table 5, by gold: Reward pair < gamma 0 < gamma 0.5."""
    config = tomllib.loads((quickstart / "run.toml").read_text())
    world = World(SandboxConfig(**config["sandbox"]))
    prompts = {prompt.prompt_id: prompt for prompt in read_prompts(quickstart / "prepare" / "unlabeled.jsonl")}
    decisions = quickstart / "round-1" / "spg" / "synthesize" / "decisions.jsonl"
    rewards = [
        reward
        for file in sorted((quickstart / "round-1" / "embed" / "vectors").iterdir())
        for reward in load_file(file)["rewards"].tolist()
    ]
    right: dict[str, list[float]] = {"reward pair": [], "gamma 0": [], "gamma 0.5": []}
    for index, line in enumerate(decisions.read_text().splitlines()):
        row = json.loads(line)
        count = len(row["texts"])
        own = rewards[index * count : (index + 1) * count]
        draw = float(uniforms(1, "test", row["prompt_id"])[0])
        gold = [world.gold(prompts[row["prompt_id"]], text) for text in row["texts"]]
        for name, decision in {
            "reward pair": choose_reward_pair(own, draw),
            "gamma 0": choose_pair(row["cluster_ids"], own, 0.0, draw),
            "gamma 0.5": choose_pair(row["cluster_ids"], own, 0.5, draw),
        }.items():
            right[name] += agreement(decision, gold)
    accuracy = {name: sum(values) / len(values) for name, values in right.items()}
    assert accuracy["reward pair"] < accuracy["gamma 0"] < accuracy["gamma 0.5"], accuracy


def agreement(decision: Decision, gold: list[float]) -> list[float]:
    """[1] when gold confirms the pair's order, [0.5] at a draw, [0] when it does not, [] without a pair."""
    if not decision.accepted:
        return []
    difference = gold[decision.chosen] - gold[decision.rejected]
    return [0.5 if difference == 0 else float(difference > 0)]
