"""Every key of run.toml, and the methods a run can have.

A table of run.toml is a frozen model in `sections/`, which has a module for each subject; the keys above all tables are
here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rlp_engine.config.sections.base import SAFE, NonNegative, Positive, Section
from rlp_engine.config.sections.data import DataConfig, SandboxConfig
from rlp_engine.config.sections.generation import GenerationConfig, SampleConfig
from rlp_engine.config.sections.judging import CollectConfig, EvaluateConfig, ServerJudgeConfig
from rlp_engine.config.sections.model import ComputeConfig, DeepSpeedConfig, ModelConfig
from rlp_engine.config.sections.ppo import CurveConfig, PpoConfig
from rlp_engine.config.sections.reward import EmbedConfig, RefineRmConfig, TrainRmConfig
from rlp_engine.config.sections.synthesis import SynthesizeConfig
from rlp_engine.config.sections.training import CheckpointConfig, LogConfig, SftConfig

METHODS = ("spg", "uml", "uml+spg", "reseed", "mvi", "infomax", "cl", "select-all", "reward-pair", "rlaif")
SYNTHESIS = {"spg": "spg", "uml+spg": "spg", "select-all": "select-all", "reward-pair": "reward-pair", "rlaif": "rlaif"}
MULTI_VIEW = {"uml": "uml", "uml+spg": "uml", "mvi": "mvi", "infomax": "infomax", "cl": "cl"}


class RunConfig(Section):
    """The whole of run.toml."""

    preset: str = Field("", description="the preset this run was made from", json_schema_extra=SAFE)
    seed: NonNegative = Field(42, description="of everything random [AF: 42]")
    rounds: Positive = Field(1, description="K: refine and retrain this often; the paper is 1 [P]")
    methods: list[str] = Field(["spg"], min_length=1, description="branches of the run: " + ", ".join(METHODS))
    fidelity: Literal["ours", "alpacafarm"] = Field(
        "ours",
        description="`alpacafarm`: PPO as AlpacaFarm ran it and the losses as the paper writes them (METHOD 5.1, 7.44)",
    )
    data: DataConfig = DataConfig()
    sandbox: SandboxConfig = SandboxConfig()
    model: ModelConfig = ModelConfig()
    compute: ComputeConfig = ComputeConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    generation: GenerationConfig = GenerationConfig()
    sft: SftConfig = SftConfig()
    judge: ServerJudgeConfig = ServerJudgeConfig()
    collect: CollectConfig = CollectConfig()
    train_rm: TrainRmConfig = TrainRmConfig()
    ppo: PpoConfig = PpoConfig()
    curve: CurveConfig = CurveConfig()
    sample: SampleConfig = SampleConfig()
    embed: EmbedConfig = EmbedConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    refine_rm: RefineRmConfig = RefineRmConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()


def value_of(config: RunConfig, key: str) -> Any:
    """config.a.b for "a.b"."""
    node = config
    for part in key.split("."):
        node = getattr(node, part)
    return node
