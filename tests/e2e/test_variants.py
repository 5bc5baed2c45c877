"""What the default run leaves out: adapters, rounds, a judge that selects, AlpacaFarm's ways, files, every method."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_byte_model, save_nli
from tiny_run import TINY, metrics, outputs, rlp, sets, start_and_signal
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

RANK = 4
BRANCHES = ["uml+spg", "mvi", "infomax", "cl", "select-all", "reward-pair", "rlaif"]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, lines: list[dict]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def recorded(run_dir: Path, stage: str) -> dict:
    return json.loads((run_dir / stage / "stage.json").read_text())


def weights(run_dir: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run_dir / stage / "model" / "model.safetensors")


def plain_rewards(folder: Path, texts: list[str]) -> torch.Tensor:
    """What plain transformers makes of the texts, one at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        ids = [tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"] for text in texts]
        return torch.cat([model(input_ids=one).logits[0] for one in ids])


# --- adapters, two rounds, a judge that selects


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


# --- AlpacaFarm's ways, every other method, exact-match


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


# --- data files, ready models, a reward model as annotator and judge, another backbone, NLI


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


# --- gold against KL, on the validation instructions


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
