"""What the models of PPO start from, and when they stand on one base."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from training.tiny_tasks import Recorder

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.model import LoraConfig, ModelConfig, ScratchConfig
from rlp_engine.config.sections.ppo import HealthConfig
from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.data.rows import write_jsonl
from rlp_engine.errors import DataError
from rlp_engine.models.policy import Policy
from rlp_engine.models.scratch import build_scratch, build_tokenizer
from rlp_engine.models.shared_base import RewardAdapter, base_digest
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.plan import SAFE_KEYS
from rlp_engine.stages.ppo import held_out_pairs, require_spread
from rlp_engine.stages.ppo_models import value_model_source, why_not_one_base
from rlp_engine.stages.reward_training import split_held_out
from rlp_engine.stages.spec import input_paths

TINY = ScratchConfig(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, tokenizer="word")


def test_the_value_model_starts_from_the_reward_model_only_if_it_reads_the_policys_tokens() -> None:
    one, same, other = (build_tokenizer(ScratchConfig(tokenizer="word"), [text]) for text in ("a b", "a b", "b c d"))
    context = SimpleNamespace(spec=SimpleNamespace(name="ppo"), reporter=NullReporter())
    policy = Policy(None, one)
    assert value_model_source(context, policy, same) == "reward_model"
    assert value_model_source(context, policy, other) == "sft_policy"


def test_only_adapters_of_the_policys_own_base_and_tokens_share_it() -> None:
    model = ModelConfig(init="scratch", scratch=TINY, lora=LoraConfig(rank=2))
    context = SimpleNamespace(config=RunConfig(model=model))
    policy, same, other = (build_scratch(model, ["a b c"], seed=seed) for seed in (1, 1, 2))
    own = RewardAdapter(base_digest(same.model.base_model), LoraConfig(rank=4), {}, {})
    assert why_not_one_base(context, policy, own, same.tokenizer) == ""  # another rank fits
    assert "another base" in why_not_one_base(context, other, own, same.tokenizer)
    assert "another tokenizer" in why_not_one_base(context, policy, own, build_tokenizer(TINY, ["a b d"]))
    elsewhere = own._replace(lora=LoraConfig(rank=2, target_modules=["q_proj"]))
    assert "other layers" in why_not_one_base(context, policy, elsewhere, same.tokenizer)


def test_ppo_reads_the_reward_models_adapters_only_where_there_are_some() -> None:
    for rank, version, names in ((0, 1, {"reward_model"}), (8, 2, {"reward_model", "reward_adapter"})):
        stages = {spec.name: spec for spec in build_pipeline(RunConfig(model=ModelConfig(lora=LoraConfig(rank=rank))))}
        assert stages["train-rm"].version == version
        inputs = {item.name: item.stage for item in stages["round-1/spg/ppo"].inputs if "reward" in item.name}
        assert inputs == dict.fromkeys(names, "round-1/spg/refine-rm")


def test_pairs_that_ppo_only_watches_are_in_no_fingerprint_and_may_be_gone(tmp_path) -> None:
    """So a ppo stage that is done stays done, whatever `ppo.health` says and whether or not it knew the pairs."""
    spec = next(spec for spec in build_pipeline(RunConfig()) if spec.name == "ppo")
    assert [item.label for item in spec.watched] == ["collect/pairs.jsonl"]
    assert "collect" not in {item.stage for item in spec.inputs}
    assert {key for key in HealthConfig.model_fields if f"ppo.health.{key}" not in SAFE_KEYS} == set()
    reporter = Recorder()
    paths = input_paths(RunLayout(tmp_path), spec)
    context = SimpleNamespace(spec=spec, config=RunConfig(), inputs=paths, reporter=reporter)
    assert held_out_pairs(context) == []
    assert "collect/pairs.jsonl is gone" in reporter.warned[0]


def test_the_pairs_that_ppo_watches_are_held_out_of_reward_training(tmp_path) -> None:
    pairs = [PreferencePair(Prompt(f"p{i}", f"question {i}"), "good", "bad") for i in range(40)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)

    def watched(**health):
        config = RunConfig(train_rm={"held_out": 20}, ppo={"health": health})
        return held_out_pairs(SimpleNamespace(config=config, inputs={"pairs": tmp_path / "pairs.jsonl"}))

    training, held_out = split_held_out(pairs, 20, seed=RunConfig().seed)
    assert watched() == held_out
    assert len(watched(agreement_pairs=5)) == 5
    assert all(pair in held_out and pair not in training for pair in watched(agreement_pairs=5))
    assert watched(agreement_pairs=5) == watched(agreement_pairs=5) != held_out[:5]
    assert watched(agreement_pairs=0) == []


def test_rewards_that_hardly_differ_are_no_scale() -> None:
    context = SimpleNamespace(spec=SimpleNamespace(name="ppo"), reporter=Recorder())
    with pytest.raises(DataError, match="standard deviation of 1e-05: there is no scale") as error:
        require_spread(1e-5, "reward/model", context)
    assert "ppo.reward_scale=none" in error.value.mend
    require_spread(0.4, "reward/model", context)
    assert context.reporter.warned == []
    require_spread(2e-3, "reward/model", context)
    assert context.reporter.warned[0].endswith("0.002; ppo.reward_scale makes them 500 times larger")
