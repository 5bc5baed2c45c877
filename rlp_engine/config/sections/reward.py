"""[train_rm], [refine_rm] and [embed]: reward models, and what they make of the policy's samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlp_engine.config.sections.base import SAFE, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section, Share
from rlp_engine.config.sections.training import OptimizerConfig


class RewardTrainingConfig(Section):
    """Bradley-Terry training, shared by train_rm and refine_rm (METHOD 4.4)."""

    epochs: Positive = Field(1, description="passes over the pairs [AF]")
    minibatch: Positive = Field(16, description="pairs per optimizer step [AF]")
    microbatch: Positive = Field(2, description="pairs per forward pass, of the longest; as many tokens of shorter ones", json_schema_extra=SAFE)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-6)


class TrainRmConfig(RewardTrainingConfig):
    """Pairs -> reward model r, initialised from the SFT policy."""

    base_model: str = Field("", description="folder or hub id of another backbone, with its own tokenizer; empty = the SFT policy [AF]")
    held_out: NonNegative = Field(500, description="pairs of D kept out of training, to measure accuracy [AF]; the same ones for every reward model of a run")
    max_length: Positive = Field(512, description="tokens of prompt and response, cut on the right [AF]; the same for every reward model of a run, in training and when it scores")
    score_microbatch: Positive = Field(16, description="texts per forward pass, of the longest, when a reward model only scores", json_schema_extra=SAFE)


class MultiViewConfig(Section):
    """UML: heads, critic and the weight of the multi-view loss (METHOD 2)."""

    weight: NonNegativeFloat = Field(0.5, description="lambda: weight of L_M beside Bradley-Terry [P]")
    views: Literal["answers", "placebo", "wordings"] = Field("answers", description="what the two views of a policy pair are. `answers`: two answers to one instruction [P]; `placebo`: an answer each to two instructions, a control [we]; `wordings`: one answer under two instructions that ask the same, by `topic` [we]")
    topic: str = Field("", description="views = `wordings`: key of the `meta` of unlabeled rows that is equal for instructions that ask the same; `fact` in the sandbox")
    hard_negatives: Literal["none", "also", "only"] = Field("none", description="views = `wordings`: pairs of the same topic with another answer are no negatives; are negatives too, four pairs of a topic in a minibatch; or are the only ones [we]")
    pairs_per_step: Positive = Field(16, ge=8, description="policy pairs per optimizer step; each needs negatives among the others [we, METHOD 7.7]")
    microbatch: Positive = Field(16, ge=8, description="policy pairs whose z share one critic pass; at least 8")
    hidden_size: Positive = Field(1024, description="width of mu, Sigma and critic [MIB]")
    latent_size: Positive = Field(64, description="k: width of z [MIB]")
    learning_rate: PositiveFloat = Field(1e-4, description="of heads and critic [MIB]; the backbone keeps refine_rm.optimizer's")
    warmup_steps: NonNegative = Field(200, description="steps in which heads and critic alone learn, on detached v, at beta_start [we, METHOD 7.15]")
    beta_start: PositiveFloat = Field(1e-3, description="weight of SKL at the start of joint training [MIB]")
    beta_end: NonNegativeFloat = Field(1.0, description="weight of SKL after the ramp [P]")
    beta_ramp: Share = Field(0.5, description="share of joint training over which beta goes log-linearly from start to end; 0 = constant beta_end (as the paper writes it)")
    negatives: Literal["off-diagonal", "roll"] = Field("off-diagonal", description="all other instructions of the microbatch, or the neighbour [MIB]")
    skl: Literal["closed-form", "sample"] = Field("closed-form", description="symmetrised KL of the two Gaussians, exact or by one sample [MIB]")
    normalise: Literal["none", "layer-norm", "standardise"] = Field("none", description="of v in front of the heads: as the paper writes it; LayerNorm (METHOD 2.4); or mean 0, std 1 in each dimension over the policy's answers at the start [we]: at the last token v can be one common vector with small differences, from which the heads learn nothing")
    temperature: PositiveFloat = Field(0.1, description="tau of the CL ablation's InfoNCE")


class ReseedConfig(Section):
    """The control: D alone, another seed, as many optimizer steps as the method it is compared with."""

    match: str = Field("spg", description="method whose number of optimizer steps is taken")


class RefineRmConfig(RewardTrainingConfig):
    """D with synthetic pairs, or with the multi-view loss, or both -> refined reward model (Eq. 1)."""

    multi_view: MultiViewConfig = MultiViewConfig()
    reseed: ReseedConfig = ReseedConfig()


class EmbedConfig(Section):
    """Rewards, hidden states v and drift of the samples under the current reward model."""

    microbatch: Positive = Field(16, description="texts per forward pass", json_schema_extra=SAFE)
    drift_samples: Positive = Field(2000, description="most vectors per side in the Frechet distance and the classifier; drawn with the run's seed")
