"""[ppo] and [curve]: the policy, its alarms, and gold against KL."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlp_engine.config.sections.base import SAFE, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section, Share
from rlp_engine.config.sections.training import OptimizerConfig

Alarm = Literal["max_kl", "max_length_growth", "max_eos_drop", "max_entropy_drop", "max_distinct_drop", "max_agreement_drop"]


class HealthConfig(Section):
    """Alarms: passing a limit warns, or stops the stage where `stop` names it; 0 = off. Non-finite numbers always stop it."""

    max_kl: NonNegativeFloat = Field(100.0, description="nats a sequence from the SFT policy", json_schema_extra=SAFE)
    max_length_growth: NonNegativeFloat = Field(3.0, description="mean length, as a multiple of the first step's", json_schema_extra=SAFE)
    max_eos_drop: Share = Field(0.3, description="by how much the share of answers that end in EOS is below the first step's", json_schema_extra=SAFE)
    max_entropy_drop: Share = Field(0.8, description="share of the first step's entropy that is lost", json_schema_extra=SAFE)
    max_distinct_drop: Share = Field(0.8, description="share of the first step's distinct_2 (different bigrams over all) that is lost: the policy repeats itself", json_schema_extra=SAFE)
    max_agreement_drop: Share = Field(0.15, description="by how much the agreement with held-out pairs is below its highest, while the score is above what it was then; at least two standard errors, 1/sqrt(pairs)", json_schema_extra=SAFE)
    stop: list[Alarm] = Field([], description="limits, by their key here, that end the stage with exit code 7 after a checkpoint; the others warn", json_schema_extra=SAFE)
    agreement_pairs: NonNegative = Field(64, description="of the pairs that train_rm.held_out keeps out of training, those that the policy's agreement is measured on (share on which log pi/pi_ref is higher for the chosen answer); 0 = off", json_schema_extra=SAFE)
    agreement_every: Positive = Field(10, description="steps between measurements of the agreement; each costs two forward passes a pair", json_schema_extra=SAFE)


class PpoConfig(Section):
    """SFT policy and a reward model -> policy (METHOD 5)."""

    steps: Positive = Field(390, description="PPO steps, each with a fresh rollout: 10 passes over 20,000 instructions at 512 [AF]")
    rollout_batch: Positive = Field(512, description="answers sampled per step [AF]")
    minibatch: Positive = Field(256, description="answers per optimizer step [AF]")
    microbatch: Positive = Field(2, description="answers per forward pass, of the longest; as many tokens of shorter ones [AF]", json_schema_extra=SAFE)
    epochs: Positive = Field(2, description="passes over each rollout [AF]")
    temperature: PositiveFloat = Field(1.0, description="of the rollouts; log-probabilities are divided by it too [AF]")
    kl_coefficient: NonNegativeFloat = Field(0.0067, description="weight of the KL penalty in the token rewards; simulated preferences 0.0067, human 0.02 [AF]")
    kl_estimator: Literal["k1", "k3", "clamped"] = Field("k1", description="per token: k1 = log ratio, k3 = non-negative, clamped = max(k1, 0) [AF]")
    kl_controller: Literal["fixed", "adaptive"] = Field("fixed", description="[AF] fixed")
    kl_target: PositiveFloat = Field(6.0, description="nats a sequence, for the adaptive controller [AF]")
    kl_gain: PositiveFloat = Field(0.1, lt=5.0, description="k_beta of the adaptive controller [AF]")
    gamma: Share = Field(1.0, description="discount [AF]")
    gae_lambda: Share = Field(1.0, description="GAE [AF]")
    clip_ratio: PositiveFloat = Field(0.2, description="[AF]")
    clip_value: PositiveFloat = Field(0.2, description="[AF]")
    value_coefficient: NonNegativeFloat = Field(0.1, description="weight of the value loss [AF]")
    whiten_rewards: Literal["off", "scale", "keep-mean"] = Field("scale", description="`scale`: divide by the live entries' standard deviation; `keep-mean`: [AF], pays for length when masked")
    mask_padding: bool = Field(True, description="losses, whitening and GAE over live tokens only; false = over all positions as [AF] ran")
    reward_scale: Literal["none", "reference"] = Field("none", description="`reference`: mean 0, std 1 on the SFT policy's samples; kept in this stage, never in the model")
    missing_eos: Literal["off", "replace", "subtract"] = Field("off", description="an answer without EOS: nothing [AF], its score becomes the penalty, or loses it")
    missing_eos_penalty: float = Field(1.0, description="`replace`: the score becomes minus this; `subtract`: the score loses this")
    select: Literal["last", "judge"] = Field("last", description="`judge`: the candidate with the best mean score on data.validation; with a judge that only compares, the best win-rate against its references, or against the SFT policy's answers when it has none")
    candidates: list[int] = Field([20, 40, 60, 80], description="steps whose policies `select = judge` compares; steps beyond `steps` are ignored, the last step always competes")
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5, schedule="linear", warmup=5, adam_epsilon=1e-5)
    health: HealthConfig = HealthConfig()


class CurveConfig(Section):
    """Gold against KL (Gao et al. 2023): every reward model also trains a policy at other weights of the KL penalty."""

    kl_coefficients: list[NonNegativeFloat] = Field([], description="values of ppo.kl_coefficient besides its own; each adds a ppo stage to every branch, judged beside the others. P stays the samples of the policy at ppo.kl_coefficient")
    methods: list[str] = Field([], description="branches with a curve, `ppo` = the first reward model; empty = all")
