"""What the value model of PPO starts from."""

from __future__ import annotations

from types import SimpleNamespace

from rlp_engine.config.schema import ScratchConfig
from rlp_engine.models.policy import Policy
from rlp_engine.models.scratch import build_tokenizer
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.ppo_models import value_model_source


def test_the_value_model_starts_from_the_reward_model_only_if_it_reads_the_policys_tokens() -> None:
    one, same, other = (build_tokenizer(ScratchConfig(tokenizer="word"), [text]) for text in ("a b", "a b", "b c d"))
    context = SimpleNamespace(spec=SimpleNamespace(name="ppo"), reporter=NullReporter())
    policy = Policy(None, one)
    assert value_model_source(context, policy, same) == "reward_model"
    assert value_model_source(context, policy, other) == "sft_policy"
