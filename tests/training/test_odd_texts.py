"""Texts that do not fit, and a policy that says nothing: told or refused, never an index error and never NaN."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch
from training.tiny_tasks import (
    GENERATION,
    MODEL,
    PAIRS,
    PROMPTS,
    pairs_task,
    ppo_task,
    reward_of,
    sft_task,
    template_of,
)

from rlp_engine.data.cuts import Cuts
from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError, HealthError, ModelError
from rlp_engine.evaluation.judges import RewardModelJudge
from rlp_engine.models.policy import load_policy, save_policy
from rlp_engine.models.reward import ResponseScorer
from rlp_engine.stages.answering import answerer, require_room
from rlp_engine.training.views import AnswerViews, PolicyAnswers


def with_positions(folder, tmp_path, positions: int):
    short = shutil.copytree(folder, tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    return short


def silent(folder, tmp_path):
    """The policy with an output layer that wants EOS after every token, as a folder of its own."""
    policy = load_policy(folder, MODEL)
    model = policy.model
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(0.05)  # tied or not: every state is the same direction
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.get_output_embeddings().weight[policy.tokenizer.eos_token_id] = 10.0
    save_policy(policy, tmp_path / "silent")
    return tmp_path / "silent"


def test_cuts_are_counted_and_told():
    cuts = Cuts()
    assert [cuts.keep([1, 2, 3], 2), cuts.keep([4, 5], 2)] == [[1, 2], [4, 5]]
    assert cuts.told("answers", "max_length = 2") == [
        "1 of 2 answers are longer than max_length = 2 tokens and are cut"
    ]
    assert Cuts(texts=3).told("answers", "max_length = 2") == []


def test_demonstrations_that_are_cut_are_counted(folder):
    whole = sft_task(folder)
    longest = max(len(p) + len(r) for p, r in zip(whole._prompts, whole._responses, strict=True))
    task = sft_task(folder, max_length=longest - 1)
    assert (whole.cuts.cut, task.cuts.texts) == (0, 12)
    assert 0 < task.cuts.cut < 12


def test_texts_beyond_the_models_positions_are_an_error_before_any_step(folder, tmp_path):
    short = with_positions(folder, tmp_path, 6)
    with pytest.raises(ModelError, match="does not fit in the policy") as error:
        sft_task(short)
    assert error.value.mend == "--set sft.max_length=6"
    with pytest.raises(ModelError, match="does not fit in the reward model"):
        pairs_task(short)
    policy = load_policy(short, MODEL)
    with pytest.raises(ModelError, match="does not fit in the value model"):
        require_room({"the value model": policy.model}, template_of(policy), PROMPTS, GENERATION)


def test_pairs_that_are_equal_as_the_reward_model_reads_them_are_counted(folder):
    equal = dataclasses.replace(PAIRS[0], rejected=PAIRS[0].chosen)
    task = pairs_task(folder, [equal, *PAIRS[1:]])
    assert (task.batches.num_equal, task.batches.cuts.cut) == (1, 0)
    assert math.isfinite(task.step(1)["loss"])


def test_a_reward_models_scorer_counts_what_it_cuts(folder):
    reward_model = reward_of(folder)
    scorer = ResponseScorer(reward_model, template_of(reward_model), microbatch=2, max_length=3)
    scorer.score_responses([PROMPTS[0], Prompt("p", "sky")], ["it is blue", ""])
    assert (scorer.cuts.texts, scorer.cuts.cut) == (2, 1)
    assert scorer.limit_in_words("judge.max_length") == "judge.max_length = 3"


def test_a_scorer_reads_as_far_as_its_model_has_positions_and_the_judge_says_so(folder, tmp_path):
    reward_model = reward_of(with_positions(folder, tmp_path, 6))
    scorer = ResponseScorer(reward_model, template_of(reward_model), microbatch=2, max_length=64)
    judge = RewardModelJudge(scorer, "rm", cuts=scorer.cuts, limit=scorer.limit_in_words("judge.max_length"))
    assert judge.remarks() == []
    sky = Prompt("p", "sky")
    assert all(map(math.isfinite, judge.scores([sky, sky], ["it is blue " * 9, ""])))
    what = "answers, with their prompts, as the judge reads them,"
    assert judge.remarks() == [f"1 of 2 {what} are longer than max_position_embeddings = 6 tokens and are cut"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_policy_or_a_judge_that_gives_no_number_is_named(folder, value):
    policy, reward_model = load_policy(folder, MODEL), reward_of(folder)
    with torch.no_grad():
        policy.model.model.norm.weight[0] = value
        reward_model.head.weight[0, 0] = value
    source = answerer(policy, template_of(policy), GENERATION, temperature=1.0, top_p=1.0, key=("odd",))
    with pytest.raises(HealthError, match="the log-probability of an answer is nan") as error:
        source.answer(PROMPTS[:1], 2)
    assert f"prompt {PROMPTS[0].prompt_id}" in error.value.where
    judge = RewardModelJudge(ResponseScorer(reward_model, template_of(reward_model), 2, 64), "judge")
    with pytest.raises(HealthError, match="a score is ") as error:
        judge.compare(PROMPTS[:1], ["it is blue"], ["no"])
    assert error.value.where.startswith("judge, prompt ")


def test_ppo_with_a_policy_that_ends_at_once_has_finite_numbers(folder, tmp_path):
    task = ppo_task(silent(folder, tmp_path), reward_mean=0.0, reward_std=1.0, held_out_pairs=PAIRS[:4])
    for step in (1, 2):
        metrics = task.step(step)
    assert (metrics["length"], metrics["eos_share"]) == (1, 1)
    assert all(math.isfinite(value) for value in metrics.values())


def test_views_need_two_different_answers_and_never_advise_fewer_than_eight():
    answers = [PolicyAnswers(prompt, ["", "", ""]) for prompt in PROMPTS]
    with pytest.raises(DataError, match="only 0 of 12 instructions have two different answers") as error:
        AnswerViews(answers, lambda prompt, text: [1], 8, ())
    assert "pairs_per_step" not in error.value.mend
