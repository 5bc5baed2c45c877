"""[judge], [collect] and [evaluate]: who says which answer is better, and what is compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlp_engine.config.sections.base import SAFE, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section, Share
from rlp_engine.config.sections.generation import ServerConfig


class JudgeConfig(Section):
    """Who says which of two answers is better."""

    kind: Literal["gold", "reward-model", "server", "ifeval"] = Field("reward-model", description="`gold`: the sandbox's true reward; `reward-model`: a fixed reward model by path; `server`: the annotators of [judge], who compare and give no scores; `ifeval`: the share of an instruction's checkable demands that the answer meets, for rows with IFEval's columns")
    path: str = Field("", description="folder or hub id of the reward model (AutoModelForSequenceClassification with one label)")
    microbatch: Positive = Field(16, description="texts per forward pass", json_schema_extra=SAFE)
    max_length: Positive = Field(1024, description="tokens of prompt and response")


class ServerJudgeConfig(Section):
    """Annotators behind a server, who compare two answers (docs/ANNOTATORS.md): for kind = "server" and RLAIF by server."""

    annotators: list[str] = Field(["alpaca-eval"], min_length=1, description="names of built-in annotators, or paths of TOML files; each instruction goes to one of them, by a draw from the seed and its text (METHOD 6.2)")
    order: Literal["coin", "both"] = Field("coin", description="`coin`: the outputs are shown in one order, by a draw from the seed and the instruction, and the answer is mapped back (METHOD 6.2); `both`: in both orders, and the mean counts. RLAIF always asks both")
    max_characters: Positive = Field(8000, description="of an instruction, and of each output, that annotators are shown; the rest is cut off and counted")
    price_per_million_input: NonNegativeFloat = Field(0.0, description="price of a million prompt tokens, in any currency; 0 = unknown", json_schema_extra=SAFE)
    price_per_million_output: NonNegativeFloat = Field(0.0, description="price of a million tokens of answers; 0 = unknown", json_schema_extra=SAFE)
    server: ServerConfig = ServerConfig()


class LabelNoiseConfig(Section):
    """How an annotator errs. Both off: the better score wins, equal scores give no pair."""

    flip_share: Share = Field(0.0, description="share of the labels that are flipped; AlpacaFarm's 25% noise means 0.25 here (METHOD 6.2)")
    temperature: NonNegativeFloat = Field(0.0, description="labels drawn from sigmoid((score_a - score_b) / temperature); 0 = the better score wins")

    @model_validator(mode="after")
    def _one_kind(self) -> LabelNoiseConfig:
        if self.flip_share and self.temperature:
            raise ValueError("give flip_share or temperature, not both")
        return self


class CollectConfig(Section):
    """Preferences D: two SFT samples per pair and a label, or a file of pairs."""

    source: Literal["annotator", "file"] = Field("annotator", description="label SFT samples, or read data.preferences")
    pairs_per_instruction: Positive = Field(1, description="pairs of SFT samples per instruction [AF]")
    temperature: PositiveFloat = Field(1.0, description="sampling temperature")
    top_p: PositiveFloat = Field(1.0, le=1.0, description="nucleus")
    annotator: JudgeConfig = JudgeConfig()
    label_noise: LabelNoiseConfig = LabelNoiseConfig()


class EvaluateConfig(Section):
    """Win-rates of every policy and accuracies of every reward model (METHOD 6)."""

    instructions: Literal["test", "validation"] = Field("test", description="table of [data] that is judged; choose settings on `validation`, report on `test`")
    temperature: PositiveFloat = Field(0.7, description="[P]")
    top_p: PositiveFloat = Field(0.9, le=1.0, description="[AF] decoding default")
    best_of_n: NonNegative = Field(16, description="n of the best-of-n baseline, SFT samples at T = 1, highest stage-2 reward; 0 = none [we, METHOD 7.46]")
    samples_per_prompt: Positive = Field(4, ge=2, description="answers per test instruction and policy at T = 1: KL, and the pairs on which reward models are tested")
    input: Literal["apart", "merged"] = Field("apart", description="how outputs/ and annotations/ write an instruction that has an input: `apart`, as AlpacaFarm; `merged` into the instruction after a blank line, as AlpacaEval (METHOD 6.3)")
    judge: JudgeConfig = JudgeConfig()
