"""The paper's preset on AlpacaFarm's data and a judge that learned from real preferences; the models are tiny."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import DATA, outputs, rlp, sets

from rlp_engine.config.sections.data import DataFile
from rlp_engine.config.sections.model import ComputeConfig, ModelConfig
from rlp_engine.data.readers import load_preferences
from rlp_engine.stages.score_pairs import score_pairs

ALPACA = DATA / "sft" / "alpaca52k_shared.parquet"
PREFERENCES = DATA / "preferences" / "alpacaeval_train.parquet"
TEST = DATA / "eval" / "alpacafarm_eval.json"
LLMBAR = DATA / "eval" / "llmbar.jsonl"
SPLITS = DATA / "eval" / "instruction_splits.jsonl"

SMALL = {
    "compute.cpu_threads": 1,
    "model.init": "scratch",
    "model.path": "",
    "model.dtype": "float32",
    "model.gradient_checkpointing": False,
    "model.scratch.hidden_size": 32,
    "model.scratch.num_layers": 1,
    "model.scratch.num_heads": 2,
    "model.scratch.intermediate_size": 48,
    "model.scratch.vocab_size": 600,
    "data.demonstrations.path": str(ALPACA),
    "data.demonstrations.where.split": "sft",
    "data.demonstrations.limit": 200,
    "sft.epochs": 1,
    "sft.minibatch": 16,
    "sft.microbatch": 16,
    "sft.max_length": 160,
    "train_rm.microbatch": 8,
    "train_rm.max_length": 160,
    "train_rm.held_out": 20,
}
JUDGE = {
    "collect.source": "file",
    "collect.label_noise.flip_share": 0,
    "data.preferences.path": str(PREFERENCES),
    "data.preferences.limit": 200,
    **{f"data.{table}.path": "" for table in ("preference_instructions", "unlabeled", "validation", "test")},
}
WHOLE = {
    **{
        f"data.{table}.{key}": value
        for table, split, limit in (
            ("preference_instructions", "preference", 60),
            ("unlabeled", "unlabeled", 40),
            ("validation", "val", 10),
        )
        for key, value in (("path", str(ALPACA)), ("where.split", split), ("limit", limit))
    },
    "data.test.path": str(TEST),
    "data.test.columns_from": str(SPLITS),
    "data.test.where.split": "test",
    "data.test.limit": 20,
    "data.test_sets.llmbar.path": str(LLMBAR),
    "data.test_sets.llmbar.where.subset": "natural",
    "data.test_sets.llmbar.limit": 4,
    "generation.max_new_tokens": 12,
    "generation.max_prompt_tokens": 128,
    "ppo.steps": 4,
    "ppo.rollout_batch": 16,
    "ppo.minibatch": 8,
    "ppo.microbatch": 8,
    "ppo.candidates": [2],
    "sample.num_per_prompt": 2,  # two different answers are two clusters of confidence 1/2, which the preset accepts
    "synthesize.equivalence.kind": "exact-match",
    "refine_rm.microbatch": 8,
    "refine_rm.multi_view.warmup_steps": 4,
    "refine_rm.multi_view.hidden_size": 32,
    "refine_rm.multi_view.latent_size": 8,
    "evaluate.best_of_n": 2,
    "evaluate.samples_per_prompt": 2,
}


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [str(path) for path in (ALPACA, PREFERENCES, TEST, LLMBAR, SPLITS) if not path.exists()]
    if missing:
        pytest.skip(f"real data is not here: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("real")
    rlp("run", folder / "judge", "--preset", "alpacafarm", *sets(SMALL | JUDGE), "--until", "train-rm")
    judge = str(folder / "judge" / "train-rm" / "model")
    named = {"collect.annotator.path": judge, "evaluate.judge.path": judge}
    rlp("run", folder / "whole", "--preset", "alpacafarm", *sets(SMALL | WHOLE | named))
    return folder / "whole"


def test_every_stage_of_the_papers_preset_is_done(real_run: Path):
    rlp("status", real_run, "--check", "--verify")
    assert {"evaluate", "round-1/uml/ppo", "round-1/spg/ppo"} <= set(outputs(real_run))
    for stage in ("ppo", "round-1/uml/ppo", "round-1/spg/ppo"):
        selection = json.loads((real_run / stage / "selection.json").read_text())
        assert set(selection["scores"]) == {"2", "4"}


def test_results_are_complete_and_against_the_papers_reference_answers(real_run: Path):
    results = json.loads((real_run / "evaluate" / "results.json").read_text())
    assert results["reference"] == "data.test"
    assert results["instructions"] == 20
    names = ["sft", "best-of-2", "ppo", "round-1/uml", "round-1/spg"]
    assert [row["name"] for row in results["policies"]] == names
    assert all(row["n"] == 20 and 0 <= row["win_rate"] <= 100 for row in results["policies"])
    assert all(row["kl"] is not None for row in results["policies"] if row["name"] not in ("sft", "best-of-2"))
    assert [row["name"] for row in results["reward_models"]] == ["train-rm", "round-1/uml", "round-1/spg"]
    references = {row["output"] for row in json.loads(TEST.read_text())}
    judged = [json.loads(line) for line in (real_run / "evaluate" / "annotations.jsonl").read_text().splitlines()]
    assert len(judged) == 20 * len(names)
    assert {row["output_1"] for row in judged} <= references


def test_every_subset_and_test_set_has_its_win_rates_and_files(real_run: Path):
    results = json.loads((real_run / "evaluate" / "results.json").read_text())
    names = [row["name"] for row in results["policies"]]
    assert {row["subset"] for row in results["subsets"]} <= {"helpful_base", "koala", "oasst", "selfinstruct", "vicuna"}
    for row in results["policies"]:  # the parts make the whole
        parts = [
            (part["win_rate"], part["n"])
            for s in results["subsets"]
            for part in s["policies"]
            if part["name"] == row["name"]
        ]
        assert sum(n for _, n in parts) == 20
        assert sum(rate * n for rate, n in parts) / 20 == pytest.approx(row["win_rate"])
    (llmbar,) = results["test_sets"]
    assert (llmbar["test_set"], llmbar["instructions"], llmbar["reference"]) == ("llmbar", 4, "the SFT policy")
    assert [row["name"] for row in llmbar["policies"]] == names
    assert llmbar["policies"][0]["draws"] == 4, "the SFT policy against its own answers"
    below = real_run / "evaluate" / "test-sets" / "llmbar"
    assert {str(path.relative_to(below)) for path in below.rglob("*.json")} == {
        f"{folder}/{name}.json" for folder in ("outputs", "annotations") for name in names
    }
    found = json.loads(rlp("winrate", real_run, "--json").stdout)["win_rates"]
    assert [row["win_rate"] for row in found] == [row["win_rate"] for row in results["policies"]]


def test_two_methods_of_the_run_are_compared_as_the_results_say(real_run: Path):
    results = json.loads((real_run / "evaluate" / "results.json").read_text())
    words = ("compare", real_run, "--methods", "round-1/spg/ppo,ppo", "--json")
    (found,) = json.loads(rlp(*words).stdout)["comparisons"]
    (known,) = [row for row in results["paired"] if (row["a"], row["b"]) == ("round-1/spg", "ppo")]
    assert {key: found[key] for key in ("a", "b", "difference", "n")} == {
        key: known[key] for key in ("a", "b", "difference", "n")
    }


def test_a_reward_model_of_the_run_is_tested_on_a_file_of_pairs(real_run: Path):
    words = ("score-pairs", real_run, LLMBAR, "--limit", "40", "--json")
    found = json.loads(rlp(*words, "--model", "train-rm").stdout)
    assert found["pairs"] == 40
    assert sum(row["n"] for row in found["subsets"]) == 40
    plain = score_pairs(  # the folder alone gives the same
        real_run / "train-rm" / "model",
        load_preferences(DataFile(path=str(LLMBAR), limit=40), 0, table=""),
        model=ModelConfig(),
        compute=ComputeConfig(cpu_threads=1),
        microbatch=16,
        max_length=160,
        progress=lambda done, total: None,
    )
    assert json.loads(json.dumps(plain)) == {key: value for key, value in found.items() if key not in ("model", "file")}
    assert "has no finished reward model" in rlp(*words, "--model", "nope", code=3).stderr


def test_splits_are_kept_apart(real_run: Path):
    instructions = {
        table: {
            (row["instruction"], row["input"])
            for line in (real_run / "prepare" / f"{table}.jsonl").read_text().splitlines()
            for row in [json.loads(line)]
        }
        for table in ("preference_instructions", "unlabeled", "validation", "test")
    }
    assert {table: len(rows) for table, rows in instructions.items()} == {
        "preference_instructions": 60,
        "unlabeled": 40,
        "validation": 10,
        "test": 20,
    }
    assert len(set.union(*instructions.values())) == 130
