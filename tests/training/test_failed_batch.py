"""A number that is not finite: every training task says which one, keeps the rows, and its last good checkpoint."""

import json
import math

import pytest
import torch
from training.tiny_tasks import multi_view_task, pairs_task, ppo_task, sft_task, train

from rlp_engine.distributed.world import World
from rlp_engine.errors import HealthError
from rlp_engine.run.manifest import record_contents
from rlp_engine.training.checkpoint import newest
from rlp_engine.training.failed_batch import Batch, not_finite_in


def poison(model, word):
    """One word's embedding is broken: rows that hold the word are, and no others."""
    token = model.tokenizer.convert_tokens_to_ids(word)
    network = getattr(model, "model", None) or model.backbone
    with torch.no_grad():
        network.get_input_embeddings().weight[token] = math.nan


def fail(task, model, out):
    """Train until the poison that comes after step 3 is read; the error and the rows of the failed step."""
    with pytest.raises(HealthError) as caught:
        train(task, out, after_step=lambda step: poison(model, "is") if step == 3 else None)
    assert caught.value.exit_code == 7
    assert newest(out / "checkpoints").found.step == 2
    path = out / "failed_step_000004.jsonl"
    assert caught.value.where == str(path)
    return caught.value.what, [json.loads(line) for line in path.read_text().splitlines()]


def test_sft_names_the_log_probability_and_keeps_the_demonstrations(folder, tmp_path):
    task = sft_task(folder)
    what, rows = fail(task, task.policy, tmp_path)
    assert what == "stage, step 4: loss is nan (not finite: logprob of 5 of 5 rows)"
    assert [row["logprob"] for row in rows] == [None] * 5
    assert all(row["instruction"].startswith("what colour") and "it is" in row["response"] for row in rows)


def test_a_reward_model_names_the_reward_and_keeps_the_pairs(folder, tmp_path):
    task = pairs_task(folder)
    what, rows = fail(task, task.reward_model, tmp_path)
    assert what.startswith("stage, step 4: loss is nan (not finite: chosen_reward of ")
    assert len(rows) in (2, 5)
    assert all({"chosen", "rejected", "prompt_id"} <= row.keys() for row in rows)


def test_the_multi_view_loss_keeps_its_views_too(folder, tmp_path):
    task = multi_view_task(folder)
    what, rows = fail(task, task.reward_model, tmp_path)
    assert "state_norm_1 of " in what
    views = [row for row in rows if "view_1" in row]
    assert len(views) == 8
    assert all(" is " in row["view_1"] for row in views)


def test_ppo_keeps_the_rollout_token_by_token(folder, tmp_path):
    task = ppo_task(folder)
    what, rows = fail(task, task.policy, tmp_path)
    assert "entries of logprobs are not finite" in what
    assert len(rows) == 16
    assert all(len(row["logprobs"]) == len(row["response_ids"]) == row["tokens"] for row in rows)
    assert any(None in row["logprobs"] for row in rows)
    assert {"score", "kl", "reference_logprobs", "values", "response"} <= rows[0].keys()


def test_a_loss_that_breaks_in_training_is_traced_to_its_rows(folder, tmp_path):
    """The rollout is sound and the update is not: one answer's log-probability under the weights of now."""
    batch = Batch()
    batch.begin([7, 3], lambda key: {"prompt_id": f"p{key}"})
    batch.note([3], logprob=torch.tensor([math.nan]))
    batch.note([7], logprob=torch.tensor([-1.5]))
    rows = batch.read()
    assert rows[0] == {"prompt_id": "p7", "logprob": -1.5}
    assert not_finite_in(rows) == "logprob of 1 of 2 rows"
    assert not_finite_in(rows[:1]) == ""
    ranked = [{"rank": rank, "logprob": value} for rank, value in [(0, -1.0), (1, math.nan), (2, math.inf), (1, -2.0)]]
    assert not_finite_in(ranked) == "logprob of 2 of 4 rows, on ranks 1, 2"
    assert not_finite_in(ranked[:2]) == "logprob of 1 of 2 rows, on rank 1"
    batch.begin([1])
    assert batch.read() == [{}]  # a new step forgets the one before


@pytest.mark.parametrize(("count", "size"), [(16, 1), (16, 2), (7, 3), (5, 8)])
def test_the_owner_of_a_row_is_the_rank_whose_share_it_is_in(count, size):
    shares = [World(rank, size).share(count) for rank in range(size)]
    owners = [World(0, size).owner(row, count) for row in range(count)]
    assert owners == [rank for rank, share in enumerate(shares) for _ in share]


def test_what_failed_once_is_no_result_of_the_stage_that_went_well_at_last(tmp_path):
    (tmp_path / "failed_step_000004.jsonl").write_text("{}\n")
    contents = record_contents(tmp_path)
    assert not contents.outputs
    assert list(contents.logs) == ["failed_step_000004.jsonl"]
