"""Data files, ready models, a reward model as annotator and judge, another backbone, NLI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from plain_transformers import plain_rewards
from tiny_models import save_byte_model, save_nli
from tiny_run import TINY, outputs, recorded, rlp, rows, sets, write_rows
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def ready_policy(finished_run: Path) -> dict[str, object]:
    return {
        "data.source": "files",
        "sft.ready_model": str(finished_run / "sft" / "model"),
        "collect.annotator.kind": "reward-model",
        "collect.label_noise.temperature": 0,
        "evaluate.judge.kind": "reward-model",
    }


@pytest.fixture(scope="module")
def judge_run(finished_run: Path, ready_policy: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model from a file of pairs, on a policy that was ready."""
    folder = tmp_path_factory.mktemp("judge")
    pairs = [
        {"question": pair["prompt"]["instruction"], "better": pair["chosen"], "worse": pair["rejected"]}
        for pair in rows(finished_run / "collect" / "pairs.jsonl")
        if pair["chosen"] and pair["rejected"]
    ]
    settings = {
        "collect.source": "file",
        "synthesize.equivalence.kind": "exact-match",
        "data.preferences.path": write_rows(folder / "pairs.jsonl", pairs),
        "data.preferences.fields.instruction": "question",
        "data.preferences.fields.chosen": "better",
        "data.preferences.fields.rejected": "worse",
    }
    rlp("run", "--preset", "quickstart", folder / "run", *sets(TINY | ready_policy | settings), "--until", "train-rm")
    return folder / "run"


def test_pairs_of_a_file_are_the_preferences_and_no_sft_stage_runs(judge_run: Path, finished_run: Path):
    assert set(outputs(judge_run)) == {"prepare", "collect", "train-rm"}
    given = rows(judge_run.parent / "pairs.jsonl")
    read = rows(judge_run / "collect" / "pairs.jsonl")
    assert [(p["prompt"]["instruction"], p["chosen"], p["rejected"]) for p in read] == [
        tuple(row.values()) for row in given
    ]
    status = json.loads(rlp("status", judge_run, "--json").stdout)
    assert "sft" not in {row["stage"] for row in status["stages"]}


@pytest.fixture(scope="module")
def files_run(
    finished_run: Path, judge_run: Path, ready_policy: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Everything from files: the reward models' backbone has another tokenizer, answers are clustered by NLI."""
    folder = tmp_path_factory.mktemp("files")
    tables = {
        name: rows(finished_run / "prepare" / f"{name}.jsonl")
        for name in ("preference_instructions", "unlabeled", "test")
    }
    instructions = [row["instruction"] for row in tables["unlabeled"]]
    unlabeled = [{"question": text, "number": f"u-{i}"} for i, text in enumerate(instructions)]
    unlabeled.append({"question": "what " * 60, "number": "too-long"})
    test = [{"question": row["instruction"], "answer": row["reference"]} for row in tables["test"]]
    test[0]["answer"] = ""
    asked = [{"question": row["instruction"]} for row in tables["preference_instructions"]]
    judge = str(judge_run / "train-rm" / "model")
    settings = {
        "methods": ["spg", "uml"],
        "data.preference_instructions.path": write_rows(folder / "asked.jsonl", asked),
        "data.unlabeled.path": write_rows(folder / "unlabeled.jsonl", unlabeled),
        "data.unlabeled.fields.prompt_id": "number",
        "data.test.path": write_rows(folder / "test.jsonl", test),
        "data.test.fields.reference": "answer",
        **{f"data.{table}.fields.instruction": "question" for table in tables},
        "collect.annotator.path": judge,
        "evaluate.judge.path": judge,
        "train_rm.base_model": str(save_byte_model(folder / "byte-model", instructions)),
        "train_rm.max_length": 256,
        "synthesize.equivalence.kind": "nli",
        "synthesize.equivalence.model": str(save_nli(folder / "nli")),
        "synthesize.equivalence.rule": "non-contradiction",
        "synthesize.equivalence.max_length": 64,
        "synthesize.equivalence.question_tokens": 16,
    }
    done = rlp("run", "--preset", "quickstart", folder / "run", *sets(TINY | ready_policy | settings))
    (folder / "said.txt").write_text(done.stdout + done.stderr)
    return folder / "run"


def test_mapped_columns_are_the_rows_of_the_run(files_run: Path):
    unlabeled = rows(files_run / "prepare" / "unlabeled.jsonl")
    given = rows(files_run.parent / "unlabeled.jsonl")
    assert [(row["instruction"], row["prompt_id"]) for row in unlabeled] == [tuple(row.values()) for row in given]
    sampled = {row["prompt_id"] for f in (files_run / "round-1/sample/answers").iterdir() for row in rows(f)}
    assert sampled == {row["prompt_id"] for row in unlabeled} - {"too-long"}


def test_what_is_left_out_or_odd_is_told(files_run: Path):
    said = (files_run.parent / "said.txt").read_text()
    assert "1 of 121 prompts are longer than generation.max_prompt_tokens = 24" in said
    assert "the reference of 1 of 24 test instructions is an empty text" in said


def test_the_named_reward_model_labels_and_judges(files_run: Path, judge_run: Path):
    judge = judge_run / "train-rm" / "model"
    pairs = rows(files_run / "collect" / "pairs.jsonl")[:6]
    for side in ("chosen", "rejected"):
        found = plain_rewards(judge, [f"{pair['prompt']['instruction']}\n{pair[side]}" for pair in pairs])
        stated = torch.tensor([pair["meta"][f"score_{side}"] for pair in pairs])
        torch.testing.assert_close(found, stated, rtol=0, atol=1e-4)
    assert all(pair["meta"]["score_chosen"] > pair["meta"]["score_rejected"] for pair in pairs)
    results = json.loads((files_run / "evaluate" / "results.json").read_text())
    assert results["judge"] == f"reward model {judge}"
    assert [row["name"] for row in results["policies"]] == ["sft", "best-of-3", "ppo", "round-1/spg", "round-1/uml"]
    assert {row["n"] for row in results["policies"]} == {24}


def test_reward_models_may_have_another_tokenizer_than_the_policy(files_run: Path):
    word, byte = (AutoTokenizer.from_pretrained(files_run / stage / "model") for stage in ("ppo", "train-rm"))
    assert len(word("hammer hammer")["input_ids"]) < len(byte("hammer hammer")["input_ids"])
    for stage in ("ppo", "round-1/spg/ppo", "round-1/uml/ppo"):
        assert recorded(files_run, stage)["summary"]["value_model_from"] == "sft_policy"


def test_an_nli_model_clusters_the_answers(files_run: Path):
    statistics = json.loads((files_run / "round-1" / "spg" / "synthesize" / "statistics.json").read_text())
    assert 0 < statistics["nli_calls"] <= 2 * statistics["comparisons"] <= statistics["naive_nli_calls"]
    assert statistics["naive_nli_calls"] == 2 * statistics["naive_comparisons"]
    assert len(statistics["confidence_histogram"]) > 1
