"""What the models of PPO start from, and when they stand on one base."""

from __future__ import annotations

from types import SimpleNamespace

from rlp_engine.config.schema import LoraConfig, ModelConfig, RunConfig, ScratchConfig
from rlp_engine.models.policy import Policy
from rlp_engine.models.scratch import build_scratch, build_tokenizer
from rlp_engine.models.shared_base import RewardAdapter, base_digest
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.ppo_models import value_model_source, why_not_one_base

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
