"""AdamW, its schedule, and updates made of micro-batch shares, the same in every training stage.

An update gets callables, each of which computes its share of the minibatch loss. The shares sum to
the loss, so that the micro-batch size changes memory and speed, and the result by rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.errors import CorruptArtifactError
from rlp_engine.training.health import check_metrics

LossShare = Callable[[], Tensor]

WEIGHT, FIRST, SECOND, COUNT = "weight/", "first_moment/", "second_moment/", "updates/"  # names in a checkpoint


def warmup_steps(total: int, config: OptimizerConfig) -> int:
    """Length of the warm-up: a share of `total` below 1, a number of steps from 1."""
    return math.ceil(total * config.warmup) if config.warmup < 1 else int(config.warmup)


def learning_rate_at(index: int, total: int, config: OptimizerConfig, peak: float | None = None) -> float:
    """Learning rate of step `index` (from 0) of `total`.

    Linear warm-up to the peak, then the schedule, which would reach 0 at `total`. Differs from
    transformers' schedules, which AlpacaFarm uses, in the warm-up: theirs makes the first step at
    rate 0, a step that learns nothing.
    """
    peak = config.learning_rate if peak is None else peak
    warmup = warmup_steps(total, config)
    if index < warmup:
        return peak * (index + 1) / (warmup + 1)
    if config.schedule == "constant":
        return peak
    share = min(1.0, (index - warmup) / max(1, total - warmup))
    if config.schedule == "linear":
        return peak * (1.0 - share)
    return peak * 0.5 * (1.0 + math.cos(math.pi * share))


def accelerator_for(device: torch.device) -> Accelerator:
    """accelerate's handle on this process; every task of a process has to ask for the same device."""
    accelerator = Accelerator(cpu=device.type == "cpu")
    assert accelerator.device.type == device.type, f"accelerate is set up for {accelerator.device}, not {device}"
    return accelerator


@dataclass(frozen=True)
class ParameterGroup:
    """Modules that share a learning rate and one clip of the gradient norm; frozen parameters are left out."""

    name: str
    modules: Mapping[str, nn.Module]
    learning_rate: float | None = None  # peak; None = the config's
    constant: bool = False  # no warm-up and no decay


class Updater:
    """Backward, clip, AdamW step. Knows nothing of what the losses mean.

    Weights in a lower precision than float32 get a float32 copy that AdamW works on, and their
    gradients are summed over the micro-batches in float32: at a learning rate of 3e-6 most steps are
    smaller than bfloat16's resolution, and weights kept in bfloat16 alone would not move.
    """

    def __init__(
        self, groups: Sequence[ParameterGroup], config: OptimizerConfig, total_steps: int, device: torch.device
    ) -> None:
        self.config = config
        self.total_steps = total_steps
        self.accelerator = accelerator_for(device)
        self._groups = list(groups)
        self._names: dict[str, nn.Parameter] = {}
        self._masters: dict[str, Tensor] = {}
        group_tensors = [self._trainable(group) for group in self._groups]
        optimizer = torch.optim.AdamW(
            [{"params": tensors} for tensors in group_tensors],
            lr=config.learning_rate,
            betas=config.adam_betas,
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        for tensors in group_tensors:  # AdamW would make these at the first step: memory is then short too late
            for tensor in tensors:
                optimizer.state[tensor] = {
                    "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
                    "exp_avg": torch.zeros_like(tensor),
                    "exp_avg_sq": torch.zeros_like(tensor),
                }
        self._optimizer = optimizer
        modules = [module for group in self._groups for module in group.modules.values()]
        *_, self._prepared = self.accelerator.prepare(*modules, optimizer)

    def _trainable(self, group: ParameterGroup) -> list[Tensor]:
        """The tensors that AdamW works on, in the order of the modules' parameters."""
        tensors = []
        for module_name, module in group.modules.items():
            for name, parameter in module.named_parameters():
                if not parameter.requires_grad:
                    continue
                name = f"{module_name}.{name}"
                assert name not in self._names, f"two parameters are called {name}"
                self._names[name] = parameter
                if parameter.dtype == torch.float32:
                    tensors.append(parameter)
                else:
                    self._masters[name] = parameter.detach().float()
                    tensors.append(self._masters[name])
        assert tensors, f"group {group.name} has nothing to train"
        return tensors

    def update(self, losses: Iterable[LossShare], index: int, *, resting: Collection[str] = ()) -> dict[str, float]:
        """One optimizer step on the sum of the shares.

        Args:
            losses: each is called once, in order, and its graph is freed before the next one runs.
            resting: names of the groups that the losses do not reach.
            index: place on the schedule, from 0; not always the number of updates made (PPO makes several a step).

        Returns:
            loss (the sum), and grad_norm before clipping and learning_rate: of the first group under
            these names, of every other one with its name added. A resting group is left out.

        Raises:
            HealthError: the loss or a gradient norm is not finite; the weights are then unchanged.
        """
        self.zero_grad()
        total: Tensor | float = 0.0
        for share in losses:
            loss = share()
            self.accelerator.backward(loss)
            self._move_gradients_to_masters()
            total = total + loss.detach()
        return {"loss": float(total)} | self.step(index, {"loss": float(total)}, resting=resting)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def step(
        self, index: int, metrics: Mapping[str, float] | None = None, *, resting: Collection[str] = ()
    ) -> dict[str, float]:
        """Clip and step on the gradients as they are; grad_norm and learning_rate of every group that does not rest.

        Raises:
            HealthError: one of them or of `metrics` is not finite; the weights are then unchanged.
        """
        found: dict[str, float] = {}
        for number, (group, settings) in enumerate(zip(self._groups, self._optimizer.param_groups, strict=True)):
            settings["lr"] = self._learning_rate(group, index)
            if group.name in resting:
                continue
            norm = self.accelerator.clip_grad_norm_(settings["params"], self.config.max_grad_norm)
            suffix = "" if number == 0 else f"_{group.name}"
            found[f"grad_norm{suffix}"] = float(norm)
            found[f"learning_rate{suffix}"] = settings["lr"]
        check_metrics({**(metrics or {}), **found})
        self._prepared.step()
        self._copy_masters_to_weights()
        return found

    def _learning_rate(self, group: ParameterGroup, index: int) -> float:
        if group.constant:
            return self.config.learning_rate if group.learning_rate is None else group.learning_rate
        return learning_rate_at(index, self.total_steps, self.config, group.learning_rate)

    def _move_gradients_to_masters(self) -> None:
        for name, master in self._masters.items():
            parameter = self._names[name]
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    @torch.no_grad()
    def _copy_masters_to_weights(self) -> None:
        for name, master in self._masters.items():
            self._names[name].copy_(master)

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside, every rank can run the models by itself: they are whole. One process always can."""
        return nullcontext()

    def state_bytes(self) -> int:
        """Size of what `tensors` returns."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Trained weights (the float32 copies where there are some) and AdamW's state, not copied."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._names.items():
            tensor = self._masters.get(name, parameter)
            state = self._optimizer.state[tensor]
            found[WEIGHT + name] = tensor.detach()
            found[FIRST + name] = state["exp_avg"]
            found[SECOND + name] = state["exp_avg_sq"]
            found[COUNT + name] = state["step"]
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned.

        Raises:
            CorruptArtifactError: other names or shapes than this model's.
        """
        own = self.tensors()
        require_same_shapes({name: tensor.shape for name, tensor in own.items()}, tensors)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self._copy_masters_to_weights()


def require_same_shapes(own: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> None:
    """Raises CorruptArtifactError unless a checkpoint's tensors have the names and shapes of the model's own."""
    wrong = sorted(set(own) ^ set(tensors)) or [name for name in own if own[name] != tensors[name].shape]
    if wrong:
        raise CorruptArtifactError(
            f"a checkpoint does not fit the model: {wrong[0]}",
            mend="the model has changed since: move the stage's folder aside and run it again",
        )
