"""One copy of the base weights under policy, reference, reward and value model, for PPO with adapters.

    policy      base + fresh adapters
    reference   the policy with its adapters off (METHOD 7.43)
    reward      base + the frozen adapters that reward training made, and its head
    value       base + those same frozen adapters + fresh ones, and a zero head

Each role is a tree of modules of its own whose base weights are the *same* Parameter objects, so no adapter
is ever switched on or off for a role: a forward pass that gradient checkpointing runs again in the backward
pass goes through its own adapters, and names, dropout and train/eval mode belong to one role.

The value model learns in fresh adapters beside the frozen ones, not in a copy of them: merged, the two are
what it is without sharing (fresh adapters on the merged reward model), gradients included, up to rounding.
With a bfloat16 base the difference is larger than a last bit of float32: merging rounds base + adapters to
bfloat16, while here the adapters stay float32, as they were when the reward model was trained.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig as PeftLoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.config.sections.model import LoraConfig
from rlp_engine.errors import CorruptArtifactError
from rlp_engine.models.lora import ADAPTER, add_lora, has_adapters
from rlp_engine.models.reward import RewardModel
from rlp_engine.models.special_tokens import ensure_pad_token
from rlp_engine.models.value import ValueModel
from rlp_engine.run.atomic import write_json

FROZEN = "reward"  # the value model's name for the reward model's adapters
_TENSORS, _RECORD = "adapter.safetensors", "adapter.json"
_BACKBONE, _HEAD = "backbone.", "head."


class RewardAdapter(NamedTuple):
    """What makes a reward model of the base that it was trained on."""

    base: str  # `base_digest` of that base
    lora: LoraConfig
    adapters: dict[str, Tensor]  # by their names in the backbone
    head: dict[str, Tensor]  # weight (1, D), and bias where there is one


def base_digest(backbone: nn.Module) -> str:
    """sha256 of the base weights as they are in memory, with names, shapes and dtypes; adapters do not count.

    A folder's path, its sharding and the adapters on top make no difference; another dtype or a pad token's
    row that was added on loading does.
    """
    tensors = {name.replace(".base_layer.", "."): tensor for name, tensor in backbone.state_dict().items()}
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if ".lora_" not in name):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_reward_adapter(reward_model: RewardModel, lora: LoraConfig, path: Path) -> None:
    """Write adapters and head in their live dtypes (adapter.safetensors), and what they belong to (adapter.json)."""
    adapters = {name: tensor for name, tensor in reward_model.backbone.state_dict().items() if ".lora_" in name}
    tensors = {_BACKBONE + name: tensor for name, tensor in adapters.items()}
    tensors |= {_HEAD + name: tensor for name, tensor in reward_model.head.state_dict().items()}
    path.mkdir(exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path / _TENSORS)
    write_json(path / _RECORD, {"base": base_digest(reward_model.backbone), "lora": lora.model_dump()})


def load_reward_adapter(path: Path) -> RewardAdapter:
    """What `save_reward_adapter` wrote.

    Raises:
        CorruptArtifactError: a file is missing or does not read.
    """
    try:
        record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        tensors = load_file(path / _TENSORS)
        base, lora = record["base"], LoraConfig(**record["lora"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CorruptArtifactError(
            "the adapters of a reward model cannot be read",
            where=str(path),
            found=" ".join(str(error).split())[:300],
            mend="make the reward model again: rlp run DIR --force STAGE",
        ) from error
    adapters, head = (
        {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
        for part in (_BACKBONE, _HEAD)
    )
    return RewardAdapter(base, lora, adapters, head)


def twin(backbone: PreTrainedModel) -> PreTrainedModel:
    """A second tree of modules on the same weights and buffers."""
    assert not has_adapters(backbone), "a twin is made of the bare base: its adapters are its own"
    kept = {id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())}
    return copy.deepcopy(backbone, kept)


def reward_on_base(
    backbone: PreTrainedModel,
    adapter: RewardAdapter,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    trust_remote_code: bool = False,
) -> RewardModel:
    """The trained reward model, frozen, on the weights of `backbone`, which has no adapters of its own.

    Args:
        adapter: its `base` is `base_digest(backbone)`; it is not computed again here.
        config: of the saved reward model, a sequence classifier with one label.

    Raises:
        CorruptArtifactError: the adapters are not those of such a model.
    """
    with torch.device("meta"):  # the classifier's shape; no weight of it stays
        module = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code)
    setattr(module, module.base_model_prefix, twin(backbone))
    ensure_pad_token(tokenizer, module)
    reward_model = RewardModel(module, tokenizer)
    device = next(backbone.parameters()).device
    reward_model.head.load_state_dict({name: tensor.to(device) for name, tensor in adapter.head.items()}, assign=True)
    add_lora(reward_model, adapter.lora)
    _fill(reward_model.backbone, adapter.adapters)
    return reward_model.requires_grad_(False).eval()


def value_on_base(backbone: PreTrainedModel, reward_model: RewardModel, lora: LoraConfig, *, seed: int) -> ValueModel:
    """A value model on the weights of `backbone` that starts as the backbone of `reward_model` and a zero head.

    Args:
        reward_model: from `reward_on_base` with the same `backbone`; its adapters are used, not copied.
        lora: of the fresh adapters, which sit in the same layers.
        seed: draws them, as it does on a merged reward model.
    """
    value_model = ValueModel(twin(backbone)).to(next(backbone.parameters()).device)
    add_lora(value_model, lora, seed=seed)
    layers, frozen_layers = _lora_layers(value_model.backbone), _lora_layers(reward_model.backbone)
    assert layers.keys() == frozen_layers.keys(), "both have adapters in the same layers"
    for name, layer in layers.items():
        frozen = frozen_layers[name]
        rank, alpha = frozen.r[ADAPTER], frozen.lora_alpha[ADAPTER]
        layer.update_layer(FROZEN, rank, lora_alpha=alpha, config=PeftLoraConfig(r=rank, lora_alpha=alpha))
        layer.lora_A[FROZEN], layer.lora_B[FROZEN] = frozen.lora_A[ADAPTER], frozen.lora_B[ADAPTER]
        layer.set_adapter([ADAPTER, FROZEN])  # the sum of both; it makes both trainable
    reward_model.requires_grad_(False)
    return value_model


def weight_bytes(modules: Iterable[nn.Module], *, trainable: bool = False) -> int:
    """Bytes of the parameters of all modules, or of those that are trained; what is shared counts once."""
    parameters = (parameter for module in modules for parameter in module.parameters())
    storages = (p.untyped_storage() for p in parameters if p.requires_grad or not trainable)
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())  # meta tensors have no data_ptr


def _lora_layers(backbone: nn.Module) -> dict[str, LoraLayer]:
    return {name: layer for name, layer in backbone.named_modules() if isinstance(layer, LoraLayer)}


def _fill(backbone: nn.Module, adapters: dict[str, Tensor]) -> None:
    own = {name: parameter for name, parameter in backbone.named_parameters() if ".lora_" in name}
    wrong = sorted(own.keys() ^ adapters.keys()) or [name for name in own if own[name].shape != adapters[name].shape]
    if wrong:
        raise CorruptArtifactError(
            f"the adapters of a reward model do not fit the base that they name: {wrong[0]}",
            mend="make the reward model again: rlp run DIR --force STAGE",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(adapters[name])
