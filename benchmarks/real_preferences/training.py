"""One reward model: Bradley-Terry on judged pairs, with what RLP adds to it.

All arms of a seed take the same number of optimizer steps with the same number of pairs of D in each: the order of D
and the starting weights are theirs in common, and only what is added differs. So a difference from the control
`reseed` (D alone) is due to what was added.

Shapes: B = pairs or texts of a batch, D = hidden width, K = width of z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.real_preferences.data import UnlabelledSet
from benchmarks.real_preferences.encoder import RewardModel, TextStates
from rlp_engine.methods.bradley_terry import bradley_terry_loss
from rlp_engine.methods.multi_view import beta_at, choose_views, multi_view_loss
from rlp_engine.methods.multi_view_heads import Critic, ViewHeads
from rlp_engine.methods.mutual_information import negative_pairs
from rlp_engine.randomness import KeyPart, normals, permutation, torch_seed, uniforms


@dataclass(frozen=True)
class Settings:
    """What is the same for every arm. Chosen on the development world where it says so (README of the package)."""

    num_pairs: int = 1600  # of D a seed
    epochs: int = 2
    pairs_per_step: int = 32
    learning_rate: float = 3e-4  # of the top layer and the head; best of 1e-4, 3e-4, 1e-3 on the development world
    weight_decay: float = 0.0
    warmup_share: float = 0.03  # of the steps; then linear to 0
    gradient_norm: float = 1.0
    multi_view_weight: float = 0.5  # lambda
    views_per_step: int = 16
    heads_warmup_steps: int = 200
    heads_learning_rate: float = 1e-3  # at 1e-4, 200 steps leave J at -2 ln 2 (development world)
    heads_hidden: int = 512
    latent: int = 64
    beta_end: float = 1.0
    synthetic_weight: float = 1.0  # of a synthetic pair beside a pair of D
    gamma: float = 0.5

    @property
    def steps_per_epoch(self) -> int:
        return self.num_pairs // self.pairs_per_step

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Added:
    """What an arm adds to D: weighted pairs (SPG), output sets that give views (UML), or nothing."""

    pairs: Sequence[tuple[int, int]] = ()  # (chosen, rejected) texts
    weight: float = 1.0
    views: Sequence[UnlabelledSet] = ()


@dataclass
class Trained:
    model: RewardModel
    log: list[dict[str, float]] = field(default_factory=list)

    def mean_of_last(self, name: str, share: float = 0.2) -> float:
        rows = [row[name] for row in self.log if name in row]
        kept = rows[-max(1, round(share * len(rows))) :]
        return sum(kept) / len(kept)


def train(
    states: TextStates,
    model: RewardModel,
    pairs: Sequence[tuple[int, int]],
    added: Added,
    settings: Settings,
    key: tuple[KeyPart, ...],
) -> Trained:
    """Train `model` in place on (chosen, rejected) pairs of D and what is added.

    L = BT(D u added) + lambda * L_M (METHOD 1, stage 4b). A step holds 32 pairs of D and, in proportion, added pairs;
    the loss is their weighted mean.
    """
    result = Trained(model)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    views = Views(states, model, added.views, settings, key) if added.views else None
    for step in range(1, settings.steps + 1):
        chosen, rejected, weight_B = _pairs_of(step, pairs, added, settings, key)
        reward_B, _ = states.read(model, chosen + rejected)
        loss = bradley_terry_loss(*reward_B.split(len(chosen)), weight_B)
        row = {"bradley_terry": float(loss.detach())}
        if views is not None:
            multi_view, found = views.joint(step)
            loss = loss + settings.multi_view_weight * multi_view
            row |= found
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings)
        optimizer.step()
        if views is not None:
            views.update()
        result.log.append(row)
    return result


class Views:
    """UML's heads and critic and the view pairs of each step, warmed up on the untrained model's v (METHOD 7.15)."""

    def __init__(
        self,
        states: TextStates,
        model: RewardModel,
        sets: Sequence[UnlabelledSet],
        settings: Settings,
        key: tuple[KeyPart, ...],
    ) -> None:
        self._states, self._model, self._settings = states, model, settings
        self._sets, self._key = list(sets), (*key, "views")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(*self._key, "heads"))
            width = model.head.in_features
            self._heads = ViewHeads(width, settings.heads_hidden, settings.latent, "standardise")
            self._critic = Critic(settings.latent, settings.latent, settings.heads_hidden)
        self._parameters = [*self._heads.parameters(), *self._critic.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, settings.heads_learning_rate)
        self._warm_up()

    def joint(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """(L_M with its gradient into the model, diagnostics) of a joint step, counted from 1."""
        s = self._settings
        first, second, groups = self._drawn(s.heads_warmup_steps + step)
        _, v_BD = self._states.read(self._model, first + second)
        self._optimizer.zero_grad()
        return self._loss(*v_BD.split(len(first)), groups, beta_at(step, s.steps, end=s.beta_end), step)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.gradient_norm)
        self._optimizer.step()

    @torch.no_grad()
    def _starting_states(self) -> dict[int, Tensor]:
        texts = sorted({text for row in self._sets for text in row.texts})
        _, v_ND = self._states.read(self._model, texts)
        return dict(zip(texts, v_ND, strict=True))

    def _warm_up(self) -> None:
        v_of = self._starting_states()
        self._heads.norm.fit(torch.stack(list(v_of.values())))
        for step in range(1, self._settings.heads_warmup_steps + 1):
            first, second, groups = self._drawn(step)
            v1_BD, v2_BD = (torch.stack([v_of[text] for text in texts]) for texts in (first, second))
            self._optimizer.zero_grad()
            loss, _ = self._loss(v1_BD, v2_BD, groups, 1e-3, -step)
            loss.backward()
            self.update()

    def _loss(
        self, v1_BD: Tensor, v2_BD: Tensor, groups: list[int], beta: float, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        noise_2BK = normals(2 * len(groups) * self._settings.latent, *self._key, "noise", step)
        noise_2BK = torch.from_numpy(noise_2BK.reshape(2, len(groups), -1)).float()
        is_negative_BB = negative_pairs(torch.tensor(groups))
        loss, found = multi_view_loss(
            "uml", self._heads, self._critic, v1_BD, v2_BD, is_negative_BB, noise_2BK[0], noise_2BK[1], beta
        )
        return loss, {name: float(value) for name, value in found.items()}

    def _drawn(self, step: int) -> tuple[list[int], list[int], list[int]]:
        """(first views, second views, instructions) of a step: an instruction at most once, and once an epoch."""
        per_step = min(self._settings.views_per_step, len(self._sets))
        epoch, place = divmod(step - 1, len(self._sets) // per_step)
        order = permutation(len(self._sets), *self._key, "order", epoch)[place * per_step : (place + 1) * per_step]
        rows = [self._sets[number] for number in order]
        draws = uniforms(len(rows), *self._key, "draw", step)
        chosen = [choose_views(row.texts, float(draw)) for row, draw in zip(rows, draws, strict=True)]
        drawn = [(row, pair) for row, pair in zip(rows, chosen, strict=True) if pair is not None]
        first, second = ([row.texts[pair[view]] for row, pair in drawn] for view in (0, 1))
        return first, second, [row.instruction for row, _ in drawn]


def _pairs_of(
    step: int, pairs: Sequence[tuple[int, int]], added: Added, settings: Settings, key: tuple[KeyPart, ...]
) -> tuple[list[int], list[int], Tensor]:
    """(chosen, rejected, weight_B): 32 pairs of D, then this step's even part of a shuffle of the added pairs."""
    epoch, place = divmod(step - 1, settings.steps_per_epoch)
    start = place * settings.pairs_per_step
    of_d = permutation(len(pairs), *key, "order", epoch)[start : start + settings.pairs_per_step]
    rows = [pairs[number] for number in of_d]
    weights = [1.0] * len(rows)
    if added.pairs:
        order = permutation(len(added.pairs), *key, "added", epoch)
        rows += [added.pairs[number] for number in np.array_split(order, settings.steps_per_epoch)[place]]
        weights += [added.weight] * (len(rows) - len(weights))
    return [chosen for chosen, _ in rows], [rejected for _, rejected in rows], torch.tensor(weights)


def _schedule(step: int, settings: Settings) -> float:
    """Share of the learning rate: linear up over the first steps, then linear to 0."""
    warmup = max(1, round(settings.warmup_share * settings.steps))
    return min(step / warmup, (settings.steps - step + 1) / (settings.steps - warmup + 1))
