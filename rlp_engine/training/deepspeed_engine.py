"""DeepSpeed's engine around the modules of a group: how it is imported, built and looked into.

The engine's module is a shell whose forward pass calls a loss share: so the tasks use their models as in one process,
and ZeRO-3's hooks on every layer see one forward pass after another.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.errors import ModelError
from rlp_engine.training.deepspeed_settings import deepspeed_settings
from rlp_engine.training.optimizer import LossShare


class Shell(nn.Module):
    """The modules that the engine trains; a forward pass is a loss share, computed with them."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)

    def forward(self, share: LossShare) -> Tensor:
        return share()


def new_engine(
    shell: nn.Module,
    parameters: list[nn.Parameter],
    config: OptimizerConfig,
    deepspeed: DeepSpeedConfig,
    dtype: torch.dtype,
) -> Any:
    """DeepSpeed's engine over `parameters` of the shell, with AdamW where its state lives.

    Raises:
        ModelError: DeepSpeed is not installed.
    """
    module = _import_deepspeed()
    settings = deepspeed_settings(config, deepspeed, dtype)
    arguments = {
        "lr": config.learning_rate,
        "betas": config.adam_betas,
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
    }
    offload = settings["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    if offload == "none":
        optimizer: Any = torch.optim.AdamW(parameters, **arguments, fused=True)
    else:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer = DeepSpeedCPUAdam(parameters, **arguments, adamw_mode=True)
    engine, *_ = module.initialize(model=shell, optimizer=optimizer, config=settings)
    return engine


def _import_deepspeed() -> Any:
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise ModelError(
            "training in many processes needs DeepSpeed", found=str(error), mend="pip install 'rlp[deepspeed]'"
        ) from error
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # DeepSpeed calls torch's collectives by names that torch renames: nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    if not torch.cuda.is_available():
        # An optional collective, compiled at the first start on a CPU; a killed build blocks all later ones.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def flat_partitions(optimizer: Any) -> list[Tensor]:
    """The flat float32 tensors that AdamW works on at this rank."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3
        return list(optimizer.fp32_partitioned_groups_flat)
    return list(optimizer.single_partition_of_fp32_groups)
