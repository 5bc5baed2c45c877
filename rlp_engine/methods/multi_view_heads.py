"""What UML learns beside the reward model, and throws away: mu, Sigma and the critic (METHOD 2.1, 2.2).

Shapes: B, C = rows, D = hidden width of the reward model, K = width of z, L, R = widths of the critic's two vectors,
H = hidden width. All of it in float32, under autocast too.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlp_engine.methods.checks import at_least_float32

Normalisation = Literal["none", "layer-norm", "standardise"]
DEAD = 1e-3  # standard deviation of a dimension that says nothing, as a share of the largest
SIGMA_FLOOR = 1e-7  # Multi-View Information Bottleneck code


class Standardise(nn.Module):
    """(v - mean) / std in each dimension, with constants.

    Not in the paper. The state at the last token of a language model can be one common vector with small
    differences (in a 96-wide sandbox model its norm is 12.7, of which the mean has 12.2): LayerNorm keeps the common
    part, the heads learn nothing from it and J stays at -2 ln 2. The constants do not move during training, so
    that the backbone cannot satisfy the loss by changing the scale of v, and a restart finds the same ones.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(input_size))
        self.register_buffer("std_D", torch.ones(input_size))

    def fit(self, v_ND: Tensor) -> None:
        """Take mean and standard deviation (biased) of N vectors.

        A dimension that hardly varies, beside the one that varies most, is only centred: some encoders have dead
        ones (three of MiniLM's 384, down to 1e-33), and to divide by that makes gradients infinite.
        """
        std_D, mean_D = torch.std_mean(at_least_float32(v_ND), dim=0, correction=0)
        self.mean_D.copy_(mean_D)
        self.std_D.copy_(torch.where(std_D > DEAD * std_D.max(), std_D, torch.ones_like(std_D)))

    def forward(self, v_BD: Tensor) -> Tensor:
        return (v_BD - self.mean_D) / self.std_D


class ViewHeads(nn.Module):
    """mu and Sigma: two three-layer MLPs on v, shared by both views.

    Args:
        input_size: D.
        hidden_size: width of both hidden layers (1024 in the Multi-View Information Bottleneck code).
        latent_size: K (64 there).
        normalise: "layer-norm": for backbones whose v has a norm in the tens (METHOD 2.4). "standardise": subtract
            a mean and divide by a standard deviation that are measured once (`Standardise.fit`).
    """

    def __init__(
        self, input_size: int, hidden_size: int = 1024, latent_size: int = 64, normalise: Normalisation = "none"
    ) -> None:
        super().__init__()
        kinds = {"none": nn.Identity, "layer-norm": nn.LayerNorm, "standardise": Standardise}
        self.norm = kinds[normalise](input_size)
        self.mu = _three_layers(input_size, hidden_size, latent_size)
        self.sigma = _three_layers(input_size, hidden_size, latent_size)

    def forward(self, v_BD: Tensor) -> tuple[Tensor, Tensor]:
        """(mu_BK, sigma_BK); sigma = softplus + 1e-7 is the standard deviation, above 0."""
        with torch.autocast(v_BD.device.type, enabled=False):
            v_BD = self.norm(at_least_float32(v_BD))
            return self.mu(v_BD), F.softplus(self.sigma(v_BD)) + SIGMA_FLOOR


class Critic(nn.Module):
    """T([left; right]): a three-layer MLP that says how well two vectors belong together.

    Args:
        left_size, right_size: widths of the two vectors: K and K, or D and K for InfoMax.
        hidden_size: width of both hidden layers.
    """

    def __init__(self, left_size: int, right_size: int, hidden_size: int = 1024):
        super().__init__()
        self.left_size, self.right_size = left_size, right_size
        self.joint = nn.Linear(left_size + right_size, hidden_size)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 1))

    def forward(self, left_BL: Tensor, right_CR: Tensor) -> Tensor:
        """(B, C) scores of all pairs. The first layer runs once a vector, not once a pair: it is linear.

        Raises:
            ValueError: if the widths are not this critic's.
        """
        if left_BL.ndim != 2 or right_CR.ndim != 2:
            raise ValueError(f"want two matrices, got {tuple(left_BL.shape)} and {tuple(right_CR.shape)}")
        if (left_BL.shape[1], right_CR.shape[1]) != (self.left_size, self.right_size):
            widths = f"{left_BL.shape[1]} and {right_CR.shape[1]}"
            raise ValueError(f"want vectors of widths {self.left_size} and {self.right_size}, got {widths}")
        with torch.autocast(left_BL.device.type, enabled=False):
            left_weight, right_weight = self.joint.weight.split([self.left_size, self.right_size], dim=1)
            left_BH = F.linear(at_least_float32(left_BL), left_weight, self.joint.bias)
            right_CH = F.linear(at_least_float32(right_CR), right_weight)
            return self.rest(left_BH[:, None, :] + right_CH[None, :, :]).squeeze(2)


def _three_layers(input_size: int, hidden_size: int, output_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_size, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, output_size),
    )
