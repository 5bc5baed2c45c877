"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) inside a model that stays a plain transformers class.

The adapters sit in the backbone, never in a head: an LM head is frozen, a reward or value head is
trained whole. Nothing wraps the model, so its class, config and forward signature are unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlp_engine.config.sections.model import LoraConfig
from rlp_engine.errors import ModelError

ADAPTER = "default"  # peft's name of the adapters that add_lora makes


def add_lora(module: nn.Module, lora: LoraConfig, *, seed: int = 0) -> None:
    """Put float32 adapters into the backbone of a policy's model, a reward model or a value model, in place.

    Rank 0 does nothing: all weights stay trainable. Otherwise only the adapters and the head of a
    reward or value model are. Fresh adapters change no output (their B is 0); `seed` draws their A.

    Raises:
        ModelError: if no layer has one of the names in `lora.target_modules`.
    """
    if lora.rank == 0:
        return
    backbone = module.backbone if hasattr(module, "backbone") else module.base_model
    targets = list(lora.target_modules)
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in backbone.modules()),
    )
    head = getattr(module, "head", None)
    head_parameters = set() if head is None else {id(parameter) for parameter in head.parameters()}
    devices = [parameter.device for parameter in backbone.parameters() if parameter.is_cuda][:1]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, backbone, ADAPTER)
        except ValueError as error:
            raise ModelError(
                "the adapters found no layer to sit in",
                where=f"model.lora.target_modules = {targets}",
                found=" ".join(str(error).split())[:300],
                mend='use ["all-linear"], or names of linear layers of this architecture',
            ) from error
    for name, parameter in module.named_parameters():
        is_adapter = ".lora_" in name
        if is_adapter:
            parameter.data = parameter.data.float()  # an update of 1e-5 would vanish in bfloat16
        parameter.requires_grad_(is_adapter or id(parameter) in head_parameters)


def has_adapters(module: nn.Module) -> bool:
    return any(isinstance(layer, LoraLayer) for layer in module.modules())


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """The model without its adapters: the SFT policy, when the adapters were added to it (METHOD 7.43)."""
    layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
    assert layers, "a model without adapters is no reference for itself"
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """A state dict under the names of the plain model, adapters added to the weights they adapt.

    The live module is not touched: merging in place and subtracting again would change its last bits.
    Merged weights are computed in float32, rounded to the weight's dtype and put on the CPU.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if ".lora_" in name:
            continue
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner and leaf == "weight":
            layer = layers[owner]
            with torch.no_grad():
                deltas = [layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters]
                tensor = (tensor.float() + sum(deltas)).to(tensor.dtype).cpu()
        state[name.replace(".base_layer.", ".")] = tensor
    return state
