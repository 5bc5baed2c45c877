"""The JSON that DeepSpeed gets: the user's words, and what follows from run.toml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlp_engine.config.outside import read_config_text
from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.errors import ConfigError


def deepspeed_settings(config: OptimizerConfig, deepspeed: DeepSpeedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The JSON that DeepSpeed gets: the user's whole one or the three keys, and what is ours to say.

    Raises:
        ConfigError: the user's file does not read, or says what is ours to say.
    """
    ours: dict[str, Any] = {
        # Our microbatches are cut by tokens; DeepSpeed's arithmetic gets ones, and `step` is called where one ends.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }
    if deepspeed.config_file:
        return _users_settings(Path(deepspeed.config_file), ours) | ours
    zero: dict[str, Any] = {"stage": deepspeed.zero_stage}
    if deepspeed.offload_optimizer != "none":
        zero["offload_optimizer"] = {"device": deepspeed.offload_optimizer}
    if deepspeed.offload_parameters != "none":
        zero["offload_param"] = {"device": deepspeed.offload_parameters}
    return {"zero_optimization": zero, **ours}


def _users_settings(path: Path, ours: Mapping[str, Any]) -> dict[str, Any]:
    where = f"deepspeed.config_file = {path}"
    try:
        settings = json.loads(read_config_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"the DeepSpeed config does not read: {error}", where=where) from error
    if not isinstance(settings, dict):
        raise ConfigError("the DeepSpeed config is not a JSON object", where=where)
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    if stage not in (1, 2, 3):
        raise ConfigError(
            "rlp trains with ZeRO stage 1, 2 or 3", where=f"{where}, zero_optimization.stage", found=str(stage)
        )
    spoken = {*ours, "train_batch_size", "optimizer", "scheduler", "fp16"}
    for key in sorted(spoken & set(settings)):
        value = settings.pop(key)
        is_off = isinstance(value, dict) and value.get("enabled") in (False, "auto")
        if value not in ("auto", ours.get(key)) and not is_off:
            raise ConfigError(
                f"'{key}' is rlp's to say: it follows from run.toml",
                where=where,
                found=json.dumps(value),
                mend=f'take it out of the file, or write "{key}": "auto"',
            )
    return settings
