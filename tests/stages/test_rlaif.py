"""RLAIF as a stage: which answers are compared, by whom, and what a restart asks again."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.data import DataConfig
from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.config.sections.synthesis import RlaifConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.generation.rlaif import Comparison, RlaifJudge
from rlp_engine.models.scratch import build_scratch
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.rlaif import judge_shard
from rlp_engine.stages.synthesize import PromptAnswers, decide_prompt, drawn_two

ASK = "{instruction} one : {response_1} two : {response_2} which ?"
KEY = (7, 1)


@pytest.fixture(scope="module")
def judge() -> RlaifJudge:
    scratch = ScratchConfig(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, tokenizer="word", init_std=0.4
    )
    policy = build_scratch(ModelConfig(init="scratch", scratch=scratch), ["one two : which ? red green blue"], seed=5)
    template = PromptTemplate("plain", policy.tokenizer)
    return RlaifJudge(policy, template, prompt=ASK, labels=("one", "two"), max_length=64, microbatch=8)


def group(prompt_id: str, answers: list[str]) -> PromptAnswers:
    return PromptAnswers(Prompt(prompt_id, "which ?"), answers, ["stop"] * len(answers), [-1.0] * len(answers))


def test_the_two_answers_are_those_of_reward_pair_and_the_policy_decides(judge: RlaifJudge, tmp_path):
    groups = [group(f"p{i}", ["red", "green", "blue", "red green"]) for i in range(12)]
    drawn = [drawn_two(one.prompt, 4, KEY) for one in groups]
    judgements = judge_shard(SimpleNamespace(out=tmp_path), judge, groups, drawn, "shard_00000")
    outcomes = set()
    for one, (first, second), judgement in zip(groups, drawn, judgements, strict=True):
        rewards = [0.0, 1.0, 2.0, 3.0]
        by_reward = decide_prompt(one.prompt, None, rewards, selection="reward-pair", gamma=0.0, key=KEY)
        decision = decide_prompt(one.prompt, None, rewards, selection="rlaif", gamma=0.0, key=KEY, judgement=judgement)
        assert {decision.chosen, decision.rejected} == {by_reward.chosen, by_reward.rejected} == {first, second}
        (verdict,) = judge.ask([Comparison(one.prompt, one.answers[first], one.answers[second])])
        (one_1, two_1), (one_2, two_2) = verdict.first_order, verdict.second_order
        shown_first = 1 / (1 + math.exp(two_1 - one_1))  # P("one"), and "one" is the first answer
        shown_second = 1 / (1 + math.exp(one_2 - two_2))  # P("two"), and "two" is the first answer
        assert judgement.preference == pytest.approx((shown_first + shown_second) / 2)
        assert decision.chosen == (first if shown_first + shown_second > 1 else second)
        assert decision.chosen_reward == float(decision.chosen)
        outcomes.add(decision.chosen == by_reward.chosen)
    assert outcomes == {True, False}, "the policy must not just repeat the reward"


def test_equal_texts_are_not_asked_and_give_no_pair(judge: RlaifJudge, tmp_path):
    groups = [group("same", ["red", " red "]), group("other", ["red", "blue"])]
    judgements = judge_shard(SimpleNamespace(out=tmp_path), judge, groups, [(0, 1), (0, 1)], "shard_00000")
    assert judgements[0] is None
    assert judgements[1] is not None
    lines = (tmp_path / "judgements" / "shard_00000.jsonl").read_text().splitlines()
    assert len(lines) == 1
    decision = decide_prompt(groups[0].prompt, None, [1.0, 1.0], selection="rlaif", gamma=0.0, key=KEY)
    assert decision.reason == "equal"


def test_a_whole_shard_is_not_asked_again(judge: RlaifJudge, tmp_path):
    groups, context = [group("a", ["red", "blue"])], SimpleNamespace(out=tmp_path)
    before = judge_shard(context, judge, groups, [(0, 1)], "shard_00003")
    assert judge_shard(context, None, groups, [(0, 1)], "shard_00003") == before  # there is no one to ask


def test_the_judge_is_the_policy_that_was_sampled():
    config = RunConfig(methods=["rlaif", "spg"], rounds=2, data=DataConfig(source="sandbox"))
    stages = {spec.name: spec for spec in build_pipeline(config)}
    for number, policy in ((1, "ppo"), (2, "round-1/rlaif/ppo")):
        spec = stages[f"round-{number}/rlaif/synthesize"]
        inputs = {item.name: item.stage for item in spec.inputs}
        sample = {item.name: item.stage for item in stages[inputs["samples"]].inputs}
        assert inputs["policy"] == sample["policy"] == policy
        assert "equivalence_model" not in inputs  # no clusters, so no NLI model is wanted
        refined = {item.name: item.stage for item in stages[f"round-{number}/rlaif/refine-rm"].inputs}
        assert refined["synthetic_pairs"] == spec.name
    assert "policy" not in {item.name for item in stages["round-1/spg/synthesize"].inputs}


def test_a_prompt_without_a_place_and_labels_that_are_one_are_refused():
    with pytest.raises(ValueError, match="response_2"):
        RlaifConfig(prompt="{instruction} {response_1}")
    with pytest.raises(ValueError, match="labels"):
        RlaifConfig(labels=["A", "A"])
    with pytest.raises(ValueError, match="labels"):
        RlaifConfig(labels=["A"])
