"""Low-rank adapters, two rounds, and a judge that selects."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_transformers import plain_rewards
from safetensors.torch import load_file
from tiny_run import TINY, metrics, outputs, recorded, rlp, rows, sets, start_and_signal
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

RANK = 4
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def weights(run_dir: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run_dir / stage / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def adapter_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`reseed` stands first: what it is matched with must be made before it all the same."""
    run_dir = tmp_path_factory.mktemp("runs") / "adapters"
    settings = {
        "model.lora.rank": RANK,
        "rounds": 2,
        "methods": ["reseed", "spg", "uml"],
        "ppo.select": "judge",
        "ppo.candidates": [2, 4],
    }
    rlp("run", "--preset", "quickstart", run_dir, *sets(TINY | settings))
    return run_dir


def test_saved_models_are_merged_and_load_in_plain_transformers(adapter_run: Path):
    stages = [stage for stage, files in outputs(adapter_run).items() if "model/model.safetensors" in files]
    assert len(stages) == 3 + 2 * 2 * 3
    for stage in stages:
        kind = AutoModelForCausalLM if stage.endswith(("sft", "ppo")) else AutoModelForSequenceClassification
        _, info = kind.from_pretrained(adapter_run / stage / "model", output_loading_info=True)
        assert not info["missing_keys"], stage
        assert not info["unexpected_keys"], stage
    assert recorded(adapter_run, "sft")["summary"]["parameters"] == sum(
        tensor.numel() for tensor in weights(adapter_run, "sft").values()
    )


def test_every_policy_was_trained_beside_its_reward_and_value_model_on_one_base(adapter_run: Path):
    made = outputs(adapter_run)
    policies = [stage for stage in made if stage.endswith("ppo")]
    assert len(policies) == 1 + 2 * 3
    for stage in policies:
        assert recorded(adapter_run, stage)["summary"]["one_base_in_memory"] is True
        reward = recorded(adapter_run, stage)["inputs"]["reward_adapter"]["stage"]
        assert {"adapter/adapter.safetensors", "adapter/adapter.json"} <= made[reward].keys()


@pytest.mark.parametrize("stage", ["train-rm", "round-1/uml/refine-rm", "round-2/spg/refine-rm", "ppo"])
def test_training_moves_linear_layers_by_the_rank_of_the_adapters(adapter_run: Path, stage: str):
    before, after = weights(adapter_run, "sft"), weights(adapter_run, stage)
    moved = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in moved} == set(LINEAR)
    for name in moved:
        values = np.linalg.svd((after[name] - before[name]).double().numpy(), compute_uv=False)
        assert values[RANK - 1] > 100 * values[RANK], f"{name} moved by more than rank {RANK}"


def test_the_best_candidate_on_validation_is_the_stages_model(adapter_run: Path):
    for stage in ("ppo", "round-1/spg/ppo", "round-2/reseed/ppo"):
        selection = json.loads((adapter_run / stage / "selection.json").read_text())
        scores = selection["scores"]
        assert list(scores) == ["2", "4", "6"]
        assert selection["judge"] == "gold"
        assert scores[str(selection["selected_step"])] == max(scores.values())
        assert recorded(adapter_run, stage)["inputs"]["validation"]["path"] == "validation.jsonl"
        assert not (adapter_run / stage / "candidates").exists()


@pytest.fixture(scope="module")
def resumed_run(adapter_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed after a candidate was saved; continued; then sampled with fewer rows side by side and in other shards.

    `killed` beside it is the partial folder as the kill left it.
    """
    run_dir = tmp_path_factory.mktemp("runs") / "resumed"
    shutil.copytree(adapter_run, run_dir)
    for stage in ("ppo", "round-1/sample"):
        shutil.rmtree(run_dir / stage)
    logging = sets({"log.samples_every_steps": 1, "log.samples": 16})
    process = start_and_signal(run_dir, "ppo", "samples/step_000003.jsonl", signal.SIGKILL, *logging)
    assert process.returncode == -signal.SIGKILL
    shutil.copytree(run_dir / "ppo.partial", run_dir.with_name("killed"))
    rlp("run", run_dir, "--until", "ppo", "--yes")
    other = sets({"generation.rows": 7, "sample.shard_prompts": 50})
    rlp("run", run_dir, *other, "--until", "round-1/sample", "--yes")
    return run_dir


def test_a_kill_after_a_candidate_was_saved_changes_no_byte(resumed_run: Path, adapter_run: Path):
    assert [path.name for path in sorted((resumed_run.with_name("killed") / "candidates").iterdir())] == ["step_000002"]
    assert outputs(resumed_run, ["ppo"]) == outputs(adapter_run, ["ppo"])
    assert metrics(resumed_run, "ppo") == metrics(adapter_run, "ppo")


def test_neither_the_rows_decoded_together_nor_the_shards_change_an_answer(resumed_run: Path, adapter_run: Path):
    def answers(of_run: Path) -> list[tuple[str, int, str]]:
        files = sorted((of_run / "round-1" / "sample" / "answers").iterdir())
        return [(row["prompt_id"], row["draw"], row["text"]) for file in files for row in rows(file)]

    assert len(list((resumed_run / "round-1" / "sample" / "answers").iterdir())) == 3
    assert answers(resumed_run) == answers(adapter_run)


def test_the_reference_is_the_sft_policy_and_a_candidate_the_policy_of_its_step(resumed_run: Path):
    killed = resumed_run.with_name("killed")
    # The answers of step 3 were drawn from the candidate of step 2.
    stated, found = sequence_kl(
        killed / "candidates" / "step_000002", resumed_run / "sft" / "model", killed / "samples" / "step_000003.jsonl"
    )
    assert found.abs().max() > 0.01, "the adapters changed nothing, so the reference could be any"
    torch.testing.assert_close(stated, found, rtol=0, atol=1e-4)


def sequence_kl(policy: Path, reference: Path, samples: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(by the stage, by plain transformers): log pi/pi_ref of each saved answer whose tokens its text tells."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (policy, reference)]
    stated, found = [], []
    for row in rows(samples):
        prompt = tokenizer(row["instruction"])["input_ids"]
        answer = tokenizer(row["response"])["input_ids"] + [tokenizer.eos_token_id] * row["ended"]
        if len(answer) != row["tokens"]:  # a special token was drawn, which the text leaves out
            continue
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            own, other = (model(input_ids=ids).logits[0, :-1].log_softmax(-1) for model in models)
        taken = torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]
        stated.append(row["kl"])
        found.append((own[taken] - other[taken]).sum())
    assert len(found) >= 8
    return torch.tensor(stated), torch.stack(found)


def test_the_second_round_samples_each_methods_own_policy_and_the_control_none(adapter_run: Path):
    made = {name.removeprefix("round-2/") for name in outputs(adapter_run) if name.startswith("round-2/")}
    trained = {f"{method}/{kind}" for method in ("reseed", "spg", "uml") for kind in ("refine-rm", "ppo")}
    sampled = {f"{method}/{kind}" for method in ("spg", "uml") for kind in ("sample", "embed")}
    assert made == trained | sampled | {"spg/synthesize"}
    for method in ("spg", "uml"):
        assert recorded(adapter_run, f"round-2/{method}/sample")["inputs"]["policy"]["stage"] == f"round-1/{method}/ppo"
    steps = {
        m: recorded(adapter_run, f"round-2/{m}/refine-rm")["summary"]["optimizer_steps"] for m in ("spg", "reseed")
    }
    assert steps["spg"] == steps["reseed"]
    results = json.loads((adapter_run / "evaluate" / "results.json").read_text())
    names = [f"round-{number}/{method}" for number in (1, 2) for method in ("reseed", "spg", "uml")]
    assert [row["name"] for row in results["policies"]] == ["sft", "best-of-3", "ppo", *names]
    assert ("round-2/spg", "round-2/reseed") in {(row["a"], row["b"]) for row in results["paired"]}


def test_in_round_two_the_reward_model_that_trained_the_policy_picks_the_chosen_answer(adapter_run: Path):
    decisions = [
        row
        for row in rows(adapter_run / "round-2" / "spg" / "synthesize" / "decisions.jsonl")
        if row["reason"] == "accepted" and row["cluster_ids"].count(row["largest_cluster"]) > 1
    ][:8]
    assert decisions
    for row in decisions:
        texts = [f"{row['instruction']}\n{text}" for text in row["texts"]]
        rewards = plain_rewards(adapter_run / "round-1" / "spg" / "refine-rm" / "model", texts)
        largest = [i for i, cluster in enumerate(row["cluster_ids"]) if cluster == row["largest_cluster"]]
        assert row["chosen_reward"] == pytest.approx(float(rewards[largest].max()), abs=1e-4)
        assert float(rewards[row["chosen"]]) == pytest.approx(row["chosen_reward"], abs=1e-4)
