"""The updater of many processes: DeepSpeed's engine holds the first group, and shares it out by ZeRO.

DeepSpeed is called directly and not through accelerate. accelerate keeps one DeepSpeed config for the life of
a process, and a run's stages differ in theirs; and its `backward` also steps, which leaves no moment to refuse a
loss that is not finite.

Further groups (the heads of UML) are small. They stay whole on every rank, and their gradients are summed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.distributed.world import world
from rlp_engine.training.deepspeed_engine import Shell, flat_partitions, new_engine
from rlp_engine.training.health import check_metrics
from rlp_engine.training.optimizer import (
    COUNT,
    FIRST,
    SECOND,
    WEIGHT,
    LossShare,
    ParameterGroup,
    Updater,
    learning_rate_at,
    require_same_shapes,
)


class DeepSpeedUpdater:
    """As `optimizer.Updater`, in every rank: the shares of all ranks sum to the loss.

    All ranks must give `update` the same number of shares, of the same kinds in the same order (dealing.py).
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        config: OptimizerConfig,
        total_steps: int,
        device: torch.device,
        deepspeed: DeepSpeedConfig,
    ) -> None:
        self.config, self.total_steps = config, total_steps
        self._group, *others = groups
        self._replicated = _Replicated(others, config, total_steps, device) if others else None
        shell = Shell(self._group.modules)
        self._names = {
            f"{module_name}.{name}": parameter
            for module_name, module in self._group.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        assert self._names, f"group {self._group.name} has nothing to train"
        self._shapes = {name: parameter.shape for name, parameter in self._names.items()}
        # DeepSpeed wants one precision: float32 adapters and heads on a bfloat16 base go down to bfloat16 in the
        # forward pass. Their float32 copies, which AdamW works on, are what a checkpoint holds.
        dtypes = {parameter.dtype for parameter in shell.parameters()}
        dtype = torch.bfloat16 if torch.bfloat16 in dtypes else torch.float32
        self.engine = new_engine(shell, list(self._names.values()), config, deepspeed, dtype)
        self._zero_stage = self.engine.zero_optimization_stage()
        self._flat = flat_partitions(self.engine.optimizer)
        for tensor in self._flat:  # as in one process: a checkpoint can be restored before the first step
            self._state[tensor] = {"exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}
        self._set_count(0.0)
        if self._zero_stage < 3:
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()  # tells the parameters where their state is

    @property
    def _state(self) -> dict[Tensor, dict[str, Any]]:
        """AdamW's, of the flat partitions."""
        return self.engine.optimizer.optimizer.state

    def _set_count(self, updates: float) -> None:
        """How many updates AdamW has made; torch's counts in a tensor, DeepSpeed's own, for the CPU, in an int."""
        in_tensor = isinstance(self.engine.optimizer.optimizer, torch.optim.AdamW)
        for tensor in self._flat:
            self._state[tensor]["step"] = torch.tensor(updates, device=tensor.device) if in_tensor else int(updates)

    def update(self, losses: Iterable[LossShare], index: int, *, resting: Collection[str] = ()) -> dict[str, float]:
        """One optimizer step on the sum of all ranks' shares; arguments and result as in `Updater.update`.

        Raises:
            HealthError: at every rank. With a loss that is not finite the weights are unchanged; a gradient norm is
                known only after the step, and the last checkpoint stands.
        """
        rests = self._group.name in resting
        self._forget_gradients()
        total: Tensor | float = 0.0
        for share in losses:
            # A resting group still reads its layers through ZeRO's hooks, and has no backward pass.
            loss = self.engine.module(share) if rests else self.engine(share)
            # DeepSpeed takes the ranks' mean of gradients, and a share is a part of a sum.
            scaled = loss * world().size
            scaled.backward() if rests else self.engine.backward(scaled)
            total = total + loss.detach()
        metrics = {"loss": sum(world().gather(float(total)))}
        check_metrics(metrics)
        if not rests:
            rate = learning_rate_at(index, self.total_steps, self.config, self._group.learning_rate)
            for settings in self.engine.optimizer.param_groups:
                settings["lr"] = rate
            self.engine.step()
            metrics |= {"grad_norm": float(self.engine.get_global_grad_norm()), "learning_rate": rate}
        if self._replicated:
            metrics |= self._replicated.step(index)
        check_metrics(metrics)
        return metrics

    def _forget_gradients(self) -> None:
        """In ZeRO-3, and where gradients are offloaded, the first backward pass of a step overwrites the gradients of
        the step before, and the next ones add: what the first pass does not reach (PPO's value model, say) would keep
        its old gradient."""
        optimizer = self.engine.optimizer
        if self._zero_stage == 3:
            optimizer.grad_partitions_flat_buffer.zero_()
        elif optimizer.cpu_offload:
            for gradient in optimizer.accumulated_grads_in_cpu.values():
                gradient.zero_()

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Inside, every rank can run the models by itself, as long as it likes: their weights are whole.

        Under ZeRO-3 this takes the memory of the whole weights on every rank. Every rank has to enter and to leave.
        """
        if self._zero_stage < 3:
            yield
            return
        from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

        with unwrap_model_for_generation(self.engine):
            yield

    def state_bytes(self) -> int:
        """Size of what `tensors` returns at the leader."""
        own = sum(3 * 4 * shape.numel() + 4 for shape in self._shapes.values())
        return own + (self._replicated.local.state_bytes() if self._replicated else 0)

    def tensors(self) -> dict[str, Tensor]:
        """As `Updater.tensors`, put together from all ranks, on the CPU; empty but at the leader.

        The names and shapes are those of one process: a checkpoint continues in a world of any size.
        Every rank has to ask.
        """
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        count = torch.tensor(float(self._state[self._flat[0]]["step"]))
        found: dict[str, Tensor] = {}
        for name, parameter in self._names.items():  # one at a time: a whole model need not fit beside the parts
            whole = {
                WEIGHT + name: safe_get_full_fp32_param(parameter),
                FIRST + name: safe_get_full_optimizer_state(parameter, "exp_avg"),
                SECOND + name: safe_get_full_optimizer_state(parameter, "exp_avg_sq"),
            }
            if world().is_leader:
                found |= {key: tensor.detach().to("cpu", copy=True) for key, tensor in whole.items()}
                found[COUNT + name] = count.clone()
        if self._replicated and world().is_leader:
            found |= self._replicated.local.tensors()
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned, here or in one process. Every rank has to call it with all of it.

        Raises:
            CorruptArtifactError: other names or shapes than this model's.
        """
        replicated = self._replicated.local.tensors() if self._replicated else {}
        own = {kind + name: shape for name, shape in self._shapes.items() for kind in (WEIGHT, FIRST, SECOND)}
        own |= {COUNT + name: torch.Size() for name in self._names}
        require_same_shapes(own | {name: tensor.shape for name, tensor in replicated.items()}, tensors)
        for name, parameter in self._names.items():
            self._put(parameter, *(tensors[kind + name].to(parameter.device) for kind in (WEIGHT, FIRST, SECOND)))
        self._put_weights(tensors)
        self._set_count(float(next(tensors[COUNT + name] for name in self._names)))
        if self._replicated:
            self._replicated.local.restore({name: tensors[name] for name in replicated})

    def _put(self, parameter: nn.Parameter, weight: Tensor, first: Tensor, second: Tensor) -> None:
        """This rank's part of a parameter's float32 weight and of AdamW's state."""
        from deepspeed import utils

        if self._zero_stage < 3:
            utils.safe_set_full_fp32_param(parameter, weight)
            utils.safe_set_full_optimizer_state(parameter, first, "exp_avg")
            utils.safe_set_full_optimizer_state(parameter, second, "exp_avg_sq")
            return
        # The setters of whole values fail where the size does not divide by the ranks; parts are padded at the end.
        size = parameter.ds_tensor.ds_numel
        parts = []
        for whole in (weight, first, second):
            part = whole.flatten()[size * world().rank : size * (world().rank + 1)]
            parts.append(nn.functional.pad(part, (0, size - part.numel())))
        utils.safe_set_local_fp32_param(parameter, parts[0])
        utils.safe_set_local_optimizer_state(parameter, parts[1], "exp_avg")
        utils.safe_set_local_optimizer_state(parameter, parts[2], "exp_avg_sq")

    def _put_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """The model's own copies of the weights, which the setters leave as they were."""
        if self._zero_stage < 3:
            for name, parameter in self._names.items():
                parameter.copy_(tensors[WEIGHT + name])
            return
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        for name, parameter in self._names.items():
            with GatheredParameters([parameter], modifier_rank=0):
                if world().is_leader:
                    parameter.copy_(tensors[WEIGHT + name])


class _Replicated:
    """Groups that every rank holds whole: gradients are summed, and every rank makes the same step."""

    def __init__(
        self, groups: Sequence[ParameterGroup], config: OptimizerConfig, total_steps: int, device: torch.device
    ) -> None:
        self._parameters = [
            parameter for group in groups for module in group.modules.values() for parameter in module.parameters()
        ]
        for group in groups:
            for module in group.modules.values():
                for tensor in (*module.parameters(), *module.buffers()):
                    dist.broadcast(tensor.data, 0)  # measured or drawn at each rank: the leader's count
        self._names = [group.name for group in groups]
        self.local = Updater(groups, config, total_steps, device)

    def step(self, index: int) -> dict[str, float]:
        """Sum the gradients of all ranks, clip and step; what `Updater.update` says of these groups."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world().size  # the shares were multiplied by it
        metrics = self.local.step(index)
        self.local.zero_grad()
        first = self._names[0]
        return {f"{name}_{first}" if name in ("grad_norm", "learning_rate") else name: v for name, v in metrics.items()}


def new_updater(
    groups: Sequence[ParameterGroup],
    config: OptimizerConfig,
    total_steps: int,
    device: torch.device,
    deepspeed: DeepSpeedConfig | None = None,
) -> Updater | DeepSpeedUpdater:
    """DeepSpeed's when a launcher started this process, else the one of a single process."""
    if world().launched:
        return DeepSpeedUpdater(groups, config, total_steps, device, deepspeed or DeepSpeedConfig())
    return Updater(groups, config, total_steps, device)
