"""The value model of PPO: a backbone and a zero head. Shapes: B sequences, L tokens, D hidden."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.models.inputs import model_inputs
from rlp_engine.models.loading import hidden_size, load_module


class ValueModel(nn.Module):
    """Predicts the return from each position; starts at 0 everywhere (METHOD 5.1 [AF])."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_size(backbone), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids_BL: Tensor, attention_BL: Tensor | None) -> Tensor:
        """values_BL, float32: the value of the state that ends in each token. Padding holds any number.

        `attention_BL` as in `model_inputs`.
        """
        inputs = model_inputs(self.backbone, ids_BL, attention_BL)
        hidden_BLD = self.backbone(**inputs, use_cache=False).last_hidden_state
        return F.linear(hidden_BLD.float(), self.head.weight.float(), self.head.bias.float()).squeeze(-1)


def load_value(source: Path | str, model: ModelConfig, *, device: torch.device | str = "cpu") -> ValueModel:
    """A value model on the backbone of a reward model's or a policy's folder; their heads are not used.

    The reward model's backbone is [AF]'s choice; where it has another tokenizer than the policy, give
    the policy's folder (METHOD 7.42, `policy.same_token_ids`).

    Raises:
        ModelError: if it cannot be loaded whole.
    """
    return ValueModel(load_module(AutoModel, source, model)).to(device)
