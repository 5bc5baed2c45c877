"""PPO against a reward model with a KL penalty (METHOD 5, column `ours`; AlpacaFarm's ways are keys of PpoConfig).

One step: a rollout (rollout.py), rewards and advantages (experience.py), then `epochs` passes of
minibatches over it. Policy and value model are separate networks that one summed loss updates.

Shapes: B = answers of the rollout batch, R = rows of a microbatch, T = response positions.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from rlp_engine.config.sections.generation import GenerationConfig
from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.config.sections.ppo import PpoConfig
from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.generation.logprobs import has_plain_head
from rlp_engine.methods.kl import next_kl_coefficient, per_token_kl
from rlp_engine.methods.ppo_loss import num_counted, policy_loss, value_loss
from rlp_engine.models.policy import Policy
from rlp_engine.models.response_rows import Rows, microbatches
from rlp_engine.models.value import ValueModel
from rlp_engine.randomness import KeyPart, permutation
from rlp_engine.training.agreement import HeldOutAgreement
from rlp_engine.training.checkpoint import TaskState
from rlp_engine.training.dealing import dealt, idle, of_all_ranks
from rlp_engine.training.deepspeed import new_updater
from rlp_engine.training.experience import Experience, Rollout, experience_of
from rlp_engine.training.failed_batch import Batch, Row
from rlp_engine.training.health import PpoAlarms, check_tensors
from rlp_engine.training.optimizer import LossShare, ParameterGroup
from rlp_engine.training.rollout import FORWARD_FACTOR, Collector, Scorer
from rlp_engine.training.steps import UpdaterTask

Diagnostics = dict[str, list[Tensor]]


class PpoTask(UpdaterTask):
    """SFT policy and reward model -> policy.

    Args:
        policy: what learns; starts as the SFT policy.
        reference: the frozen SFT policy; None = the policy with its adapters off (LoRA on a merged SFT policy).
        value_model: over the policy's tokens; it learns too.
        scorer: the reward model, scoring decoded text with its own tokenizer.
        prompts: U; those longer than generation.max_prompt_tokens are dropped.
        seed_parts: (seed, round, stage name), the start of every random key.
        reward_mean, reward_std: of the scores of the SFT policy's samples, which PPO's scores are scaled by
            (config.reward_scale = "reference"); 0 and 1 leave them as they are.
        held_out_pairs: pairs of D that no reward model was trained on; the policy's agreement with them is
            measured every `config.health.agreement_every` steps. Nothing that is learned depends on them.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        reference: nn.Module | None,
        value_model: ValueModel,
        scorer: Scorer,
        template: PromptTemplate,
        prompts: Sequence[Prompt],
        config: PpoConfig,
        generation: GenerationConfig,
        seed_parts: tuple[KeyPart, ...],
        reward_mean: float = 0.0,
        reward_std: float = 1.0,
        held_out_pairs: Sequence[PreferencePair] = (),
        deepspeed: DeepSpeedConfig | None = None,
    ) -> None:
        self.policy, self.value_model, self.config, self.seed_parts = policy, value_model, config, seed_parts
        self.reward_mean, self.reward_std = reward_mean, reward_std
        self.total_steps = config.steps
        self.kl_coefficient = config.kl_coefficient
        self.collector = Collector(
            policy, reference, value_model, scorer, template, prompts, config, generation, seed_parts
        )
        self.agreement = HeldOutAgreement(
            policy,
            reference,
            template,
            held_out_pairs,
            max_length=generation.max_prompt_tokens + generation.max_new_tokens,
            rows=FORWARD_FACTOR * config.microbatch,
            temperature=config.temperature,
        )
        has_plain_head(policy.model)
        group = ParameterGroup("policy", {"policy": policy.model, "value": value_model})
        self.updater = new_updater([group], config.optimizer, config.steps, self.collector.device, deepspeed)
        self._alarms = PpoAlarms(config.health, self.agreement.count)
        self._warnings: list[str] = []
        self._has_agreement = False
        self._last: Rollout | None = None
        self._batch = Batch()

    def step(self, step: int) -> dict[str, float]:
        started = time.perf_counter()
        with self.updater.whole_weights():  # answers end where they end: no rank waits for another
            rollout = self._last = self.collector.collect(step)
            agreement = self._agreement_at(step)
        self._batch.begin(range(len(rollout.prompts)))
        check_tensors(
            scores=rollout.scores_B,
            logprobs=rollout.logprobs_BT,
            reference_logprobs=rollout.reference_logprobs_BT,
            values=rollout.values_BT,
        )
        experience, metrics = experience_of(
            rollout, self.config, self.kl_coefficient, reward_mean=self.reward_mean, reward_std=self.reward_std
        )
        metrics |= agreement
        self._has_agreement = bool(agreement)
        collected = time.perf_counter()
        metrics |= {"kl_coefficient": self.kl_coefficient} | self._learn(experience, step)
        metrics |= {"collect_seconds": collected - started, "learn_seconds": time.perf_counter() - collected}
        sequence_kl = metrics[f"kl_{self.config.kl_estimator}"]
        if self.config.kl_controller == "adaptive":
            self.kl_coefficient = next_kl_coefficient(
                self.kl_coefficient, sequence_kl, target=self.config.kl_target, gain=self.config.kl_gain
            )
        self._warnings = self._alarms.look({**metrics, "kl": sequence_kl})
        return metrics

    def _agreement_at(self, step: int) -> dict[str, float]:
        """Of the policy that answered in this step, where it is due."""
        is_due = step % self.config.health.agreement_every == 0
        return {"held_out_agreement": self.agreement.measure()} if is_due and self.agreement.count else {}

    def _learn(self, experience: Experience, step: int) -> dict[str, float]:
        """Two times two updates by default; the schedule moves once a PPO step (METHOD 5.1, step 8)."""
        self.policy.model.train()
        self.value_model.train()
        updates: list[dict[str, float]] = []
        for epoch in range(self.config.epochs):
            for rows in self.minibatches(step, epoch):
                diagnostics: Diagnostics = defaultdict(list)
                update = self.updater.update(self.loss_shares(experience, rows, diagnostics), index=step - 1)
                updates.append(update | _combined(of_all_ranks(diagnostics)))
        return _over_updates(updates)

    def minibatches(self, step: int, epoch: int) -> list[list[int]]:
        """Rows of the rollout in minibatches, in an order of its own for every step and epoch (from 0)."""
        order = permutation(self.config.rollout_batch, *self.seed_parts, "minibatches", step, epoch).tolist()
        size = self.config.minibatch
        return [order[first : first + size] for first in range(0, len(order), size)]

    def loss_shares(self, experience: Experience, rows: Sequence[int], diagnostics: Diagnostics) -> Iterator[LossShare]:
        """Callables that sum to the loss of the minibatch `rows`, this rank's. Each adds its diagnostics when called.

        Policy and value model have shares of their own, one after the other: no parameter is trained by both,
        and the activations of only one of them are held at a time.
        """
        rollout = experience.rollout
        denominator = num_counted(rollout.is_live_BT[list(rows)], self.config.mask_padding)
        groups = microbatches(rows, rollout.prompt_ids, rollout.response_ids, self.config.microbatch)
        for members, counts in dealt(groups):
            packed = self.collector.pack(
                [rollout.prompt_ids[row] for row in members], [rollout.response_ids[row] for row in members]
            )
            for share in (self._policy_share, self._value_share):
                if counts:
                    yield partial(share, experience, members, packed, denominator, diagnostics)
                else:
                    yield idle(partial(share, experience, members, packed, denominator, defaultdict(list)))

    def _policy_share(
        self, experience: Experience, rows: list[int], packed: Rows, denominator: int, diagnostics: Diagnostics
    ) -> Tensor:
        logprobs_RT = self.collector.policy_logprobs(packed)
        width = logprobs_RT.shape[1]
        self._batch.note(rows, logprob_in_training=logprobs_RT.detach().sum(1))
        loss, found = policy_loss(
            logprobs_RT,
            experience.rollout.logprobs_BT[rows, :width],
            experience.advantages_BT[rows, :width],
            experience.rollout.is_live_BT[rows, :width],
            clip_ratio=self.config.clip_ratio,
            denominator=denominator,
            mask_padding=self.config.mask_padding,
        )
        _note(diagnostics, {"policy_loss": loss.detach(), **found})
        return loss

    def _value_share(
        self, experience: Experience, rows: list[int], packed: Rows, denominator: int, diagnostics: Diagnostics
    ) -> Tensor:
        values_RT = self.collector.values(packed)
        width = values_RT.shape[1]
        self._batch.note(rows, value_in_training=values_RT.detach().mean(1))
        loss, found = value_loss(
            values_RT,
            experience.rollout.values_BT[rows, :width],
            experience.returns_BT[rows, :width],
            experience.rollout.is_live_BT[rows, :width],
            clip_value=self.config.clip_value,
            denominator=denominator,
            mask_padding=self.config.mask_padding,
        )
        _note(diagnostics, {"value_loss": loss.detach(), **found})
        return self.config.value_coefficient * loss

    def samples(self) -> list[dict[str, Any]]:
        if self._last is None:
            return []
        rollout = self._last
        kl_BT = per_token_kl(rollout.logprobs_BT, rollout.reference_logprobs_BT, rollout.is_live_BT)
        return [
            {
                "prompt_id": prompt.prompt_id,
                "instruction": prompt.instruction,
                "input": prompt.input,
                "response": text,
                "score": score,
                "kl": kl,
                "tokens": len(ids),
                "ended": ended,
            }
            for prompt, text, score, kl, ids, ended in zip(
                rollout.prompts,
                rollout.texts,
                rollout.scores_B.tolist(),
                kl_BT.sum(1).tolist(),
                rollout.response_ids,
                rollout.ended_B.tolist(),
                strict=True,
            )
        ]

    def failed_batch(self) -> list[Row]:
        """The rollout, token by token."""
        rows = []
        for row, (sample, numbers) in enumerate(zip(self.samples(), self._batch.read(), strict=True)):
            ids = self._last.response_ids[row]
            tokens = {"prompt_ids": self._last.prompt_ids[row], "response_ids": ids}
            for name in ("logprobs", "reference_logprobs", "values"):
                tokens[name] = getattr(self._last, f"{name}_BT")[row, : len(ids)].tolist()
            sampled_by = {"rank": world().owner(row, len(self._last.response_ids))} if world().size > 1 else {}
            rows.append(sample | tokens | sampled_by | numbers)
        return rows

    def warnings(self) -> list[str]:
        return self._warnings

    def has_news(self) -> bool:
        """An alarm, whose numbers somebody will look for; the agreement, which few steps have."""
        return bool(self._warnings) or self._has_agreement

    def must_stop(self) -> str:
        return self._alarms.must_stop()

    def state(self) -> TaskState:
        values = {"kl_coefficient": self.kl_coefficient, "alarms": self._alarms.state()}
        return TaskState(self.updater.tensors(), values)

    def restore(self, state: TaskState) -> None:
        self.updater.restore(state.tensors)
        self.kl_coefficient = state.values["kl_coefficient"]
        self._alarms.restore(state.values["alarms"])


def _note(diagnostics: Diagnostics, found: Mapping[str, Tensor]) -> None:
    for name, value in found.items():
        diagnostics[name].append(value)


def _combined(diagnostics: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Diagnostics of a minibatch from its microbatches: shares add up, and of maxima the maximum counts."""
    return {name: float(max(values) if name.endswith("_max") else sum(values)) for name, values in diagnostics.items()}


def _over_updates(updates: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the updates of a step, of maxima the maximum; and the first minibatch's ratio, which must be 1."""
    result = {"first_ratio_max": updates[0]["ratio_max"]}
    for name in updates[0]:
        values = [update[name] for update in updates]
        result[name] = max(values) if name.endswith("_max") else sum(values) / len(values)
    return result
