"""[sft], and what every stage that trains has: optimizer, checkpoints, logs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlp_engine.config.sections.base import SAFE, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section


class OptimizerConfig(Section):
    """AdamW and its schedule, the same words in every training stage. Batch words count samples."""

    learning_rate: PositiveFloat = Field(1e-5, description="peak")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="decay to 0 over all steps, after the warm-up")
    warmup: NonNegativeFloat = Field(0.03, description="below 1: share of all steps; from 1: steps")
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW")
    adam_betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW")
    adam_epsilon: PositiveFloat = Field(1e-8, description="AdamW")
    max_grad_norm: PositiveFloat = Field(1.0, description="clip the gradient norm")


class SftConfig(Section):
    """Demonstrations -> SFT policy; loss on response tokens only (METHOD 4.4, 4.5)."""

    ready_model: str = Field("", description="folder or hub id of a policy that is already supervised-fine-tuned: the stage is then not needed")
    epochs: Positive = Field(3, description="passes over the demonstrations [AF]")
    minibatch: Positive = Field(128, description="demonstrations per optimizer step [AF]")
    microbatch: Positive = Field(1, description="demonstrations per forward pass, of the longest; as many tokens of shorter ones", json_schema_extra=SAFE)
    max_length: Positive = Field(512, description="tokens of prompt and response, cut on the right [AF]")
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-5)


class CheckpointConfig(Section):
    """When training stages save what they need to go on."""

    every_steps: Positive = Field(50, description="steps between checkpoints", json_schema_extra=SAFE)
    keep: Positive = Field(2, ge=2, description="newest whole checkpoints that are kept", json_schema_extra=SAFE)


class LogConfig(Section):
    """What is written while a stage runs."""

    every_steps: Positive = Field(1, description="steps between lines of metrics.jsonl", json_schema_extra=SAFE)
    samples_every_steps: Positive = Field(10, description="PPO steps between saved answers", json_schema_extra=SAFE)
    samples: NonNegative = Field(4, description="answers saved each time", json_schema_extra=SAFE)
