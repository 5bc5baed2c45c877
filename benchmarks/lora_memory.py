"""Bytes that PPO with adapters holds at 7B shapes, beside activations and the KV cache.

    python -m benchmarks.lora_memory [--ranks 8,16,32,64]

The four roles are built as the stage builds them (models/shared_base.py), on torch's meta device: nothing is
allocated, and parameters are counted by storage, so that what is shared counts once. Base in bfloat16;
adapters, their gradients and AdamW's two moments in float32. `three copies` is what the stage holds when the
reward model was not trained on the policy's base: policy, reward model and value model, each whole.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from rlp_engine.config.sections.model import LoraConfig, ScratchConfig
from rlp_engine.models.lora import add_lora
from rlp_engine.models.reward import RewardModel
from rlp_engine.models.scratch import build_tokenizer
from rlp_engine.models.shared_base import RewardAdapter, reward_on_base, value_on_base, weight_bytes

RANKS = (8, 16, 32, 64)
LIMIT = 1.3  # times the bytes of the base
LLAMA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}


class Memory(NamedTuple):
    """Bytes."""

    base: int
    policy: int  # adapters
    reward: int  # adapters and head
    value: int  # fresh adapters and head
    gradients: int
    adam: int
    three_copies: int  # parameters alone, without sharing

    @property
    def weights(self) -> int:
        return self.base + self.policy + self.reward + self.value

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.adam


def ppo_memory(shape: dict[str, object], rank: int) -> Memory:
    """What the four roles hold at these shapes, with adapters of this rank in every linear layer."""
    lora = LoraConfig(rank=rank)
    tokenizer = build_tokenizer(ScratchConfig(tokenizer="word"), ["a b c"])
    with torch.device("meta"):
        policy = LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16)
        classifier_config = LlamaConfig(**shape, num_labels=1)
        reward = RewardModel(
            AutoModelForSequenceClassification.from_config(classifier_config).to(torch.bfloat16), tokenizer
        )
        add_lora(reward, lora)
    adapters = {name: tensor for name, tensor in reward.backbone.state_dict().items() if ".lora_" in name}
    adapter = RewardAdapter("", lora, adapters, reward.head.state_dict())
    base = weight_bytes([policy])
    shared_reward = reward_on_base(policy.model, adapter, classifier_config, tokenizer)
    with_reward = weight_bytes([policy, shared_reward])
    value = value_on_base(policy.model, shared_reward, lora, seed=0)
    with_value = weight_bytes([policy, shared_reward, value])
    add_lora(policy, lora)
    everything = weight_bytes([policy, shared_reward, value])
    trained = weight_bytes([policy, value], trainable=True)
    backbone = weight_bytes([reward.backbone]) - sum(tensor.nbytes for tensor in adapters.values())
    return Memory(
        base=base,
        policy=everything - with_value,
        reward=with_reward - base,
        value=with_value - with_reward,
        gradients=trained,
        adam=2 * trained,
        three_copies=everything + 2 * backbone - (with_reward - base),
    )


def table(columns: dict[int, Memory]) -> str:
    """A column a rank: gigabytes (1e9 bytes), then ratios to the base; those over the limit have a star."""
    parts = {
        "base (policy, reference, all roles)": "base",
        "policy: adapters": "policy",
        "reward model: adapters, head": "reward",
        "value model: adapters, head": "value",
        "weights of all roles": "weights",
        "gradients": "gradients",
        "AdamW's moments": "adam",
        "all of it": "total",
        "three copies, weights alone": "three_copies",
    }
    ratios = {"weights / base": "weights", "all of it / base": "total", "three copies / base": "three_copies"}
    lines = [f"{'GB at rank':38}" + "".join(f"{rank:>9}" for rank in columns)]
    for name, part in parts.items():
        lines.append(f"{name:38}" + "".join(f"{getattr(m, part) / 1e9:9.2f}" for m in columns.values()))
    for name, part in ratios.items():
        values = [getattr(m, part) / m.base for m in columns.values()]
        lines.append(f"{name:38}" + "".join(f"{value:9.3f}{'*' * (value > LIMIT)}" for value in values))
    return "\n".join([*lines, f"* more than {LIMIT} times the base", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default=",".join(map(str, RANKS)), help="ranks of the adapters")
    ranks = [int(rank) for rank in parser.parse_args().ranks.split(",")]
    sys.stdout.write(table({rank: ppo_memory(LLAMA_7B, rank) for rank in ranks}))


if __name__ == "__main__":
    main()
