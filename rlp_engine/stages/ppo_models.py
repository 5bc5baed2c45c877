"""The models of a PPO stage beside its policy: on the policy's own base weights where that is possible, else loaded.

With adapters one copy of the base serves all four roles when the reward model was trained on the policy
that PPO starts from. Otherwise each model is loaded whole, and a line says why.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlp_engine.models.loading import load_config, load_tokenizer
from rlp_engine.models.lora import add_lora
from rlp_engine.models.policy import Policy, load_policy, same_token_ids
from rlp_engine.models.reward import RewardModel, load_reward
from rlp_engine.models.shared_base import (
    RewardAdapter,
    base_digest,
    load_reward_adapter,
    reward_on_base,
    value_on_base,
    weight_bytes,
)
from rlp_engine.models.value import ValueModel, load_value
from rlp_engine.randomness import torch_seed
from rlp_engine.stages.spec import StageContext


class PpoModels(NamedTuple):
    """What PPO holds beside the policy."""

    reward_model: RewardModel
    value_model: ValueModel
    reference: nn.Module | None  # None = the policy with its adapters off
    value_source: str  # the input that the value model starts from
    one_base: bool  # all of them stand on the policy's base weights


def ppo_models(context: StageContext, policy: Policy, device: torch.device) -> PpoModels:
    """The models beside `policy`, which has no adapters yet."""
    if not context.config.model.lora.rank:
        return _loaded_models(context, policy, device)
    adapter = load_reward_adapter(context.inputs["reward_adapter"])
    tokenizer = load_tokenizer(context.inputs["reward_model"], context.config.model)
    why = why_not_one_base(context, policy, adapter, tokenizer)
    if why:
        context.reporter.line(f"{context.spec.name}: the reward and the value model are copies of their own: {why}")
        return _loaded_models(context, policy, device)
    return _models_on_base(context, policy, adapter, tokenizer)


def why_not_one_base(
    context: StageContext, policy: Policy, adapter: RewardAdapter, reward_tokenizer: PreTrainedTokenizerBase
) -> str:
    """What keeps the reward model's adapters off the policy's base; "" = nothing."""
    if not same_token_ids(policy.tokenizer, reward_tokenizer):
        return "the reward model has another tokenizer"
    if adapter.lora.target_modules != context.config.model.lora.target_modules:
        return "its adapters sit in other layers (model.lora.target_modules)"
    if adapter.base != base_digest(policy.model.base_model):
        return "the reward model was trained on another base than the SFT policy"
    return ""


def _models_on_base(
    context: StageContext, policy: Policy, adapter: RewardAdapter, tokenizer: PreTrainedTokenizerBase
) -> PpoModels:
    model, backbone = context.config.model, policy.model.base_model
    own = weight_bytes([policy.model])
    config = load_config(context.inputs["reward_model"], model)
    reward_model = reward_on_base(backbone, adapter, config, tokenizer, trust_remote_code=model.trust_remote_code)
    value_model = value_on_base(backbone, reward_model, model.lora, seed=_value_seed(context))
    ratio = weight_bytes([policy.model, reward_model, value_model]) / own
    context.reporter.line(
        f"{context.spec.name}: policy, reference, reward and value model share one copy of the base "
        f"(reward and value model add {ratio - 1:.1%} to its bytes)"
    )
    return PpoModels(reward_model, value_model, None, "reward_model", one_base=True)


def _loaded_models(context: StageContext, policy: Policy, device: torch.device) -> PpoModels:
    model = context.config.model
    reward_model = load_reward(context.inputs["reward_model"], model, device=device)
    reference = None if model.lora.rank else load_policy(context.inputs["sft_policy"], model, device=device).model
    source = value_model_source(context, policy, reward_model.tokenizer)
    value_model = load_value(context.inputs[source], model, device=device)
    add_lora(value_model, model.lora, seed=_value_seed(context))
    return PpoModels(reward_model, value_model, reference, source, one_base=False)


def value_model_source(context: StageContext, policy: Policy, reward_tokenizer: PreTrainedTokenizerBase) -> str:
    """The input whose backbone the value model starts from: the reward model, or the policy when the tokenizers
    differ (METHOD 7.42)."""
    if same_token_ids(policy.tokenizer, reward_tokenizer):
        return "reward_model"
    context.reporter.line(
        f"{context.spec.name}: the reward model has another tokenizer, so the value model starts from the policy"
    )
    return "sft_policy"


def _value_seed(context: StageContext) -> int:
    return torch_seed(context.config.seed, "value-lora")
