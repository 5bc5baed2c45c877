"""Bradley-Terry training of a reward model on preference pairs (METHOD 4).

Shapes: P = pairs of a microbatch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.config.sections.reward import RewardTrainingConfig
from rlp_engine.data.batching import length_groups
from rlp_engine.data.cuts import Cuts
from rlp_engine.data.records import PreferencePair
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import DataError
from rlp_engine.methods.bradley_terry import bradley_terry_loss, pair_accuracy
from rlp_engine.models.pairs import can_pack, pair_length
from rlp_engine.models.reward import RewardModel
from rlp_engine.randomness import KeyPart
from rlp_engine.training.dealing import dealt, idle, of_all_ranks
from rlp_engine.training.deepspeed import new_updater
from rlp_engine.training.failed_batch import Batch, Row
from rlp_engine.training.optimizer import LossShare, ParameterGroup
from rlp_engine.training.order import minibatch_at, steps_of
from rlp_engine.training.steps import UpdaterTask

Diagnostics = dict[str, list[float]]


class PairBatches:
    """Preference pairs as losses: which pairs a step has, and their share of its Bradley-Terry loss.

    Args:
        template: made with the reward model's tokenizer.
        seed_parts: (seed, round, stage name), the start of every random key.
        max_length: tokens of prompt and response, cut on the right.

    Raises:
        DataError: there are no pairs, or all have weight 0.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        template: PromptTemplate,
        pairs: Sequence[PreferencePair],
        config: RewardTrainingConfig,
        *,
        seed_parts: tuple[KeyPart, ...],
        max_length: int,
    ) -> None:
        pairs = [pair for pair in pairs if pair.weight > 0]
        if not pairs:
            raise DataError("there is no preference pair to learn from", mend="check the pairs with `rlp data check`")
        self.reward_model = reward_model
        self.config = config
        self._key = (*seed_parts, "order")
        self._pairs = pairs
        self._weights = [pair.weight for pair in pairs]
        self.cuts = Cuts()
        encoded = [
            [
                self.cuts.keep(template.encode_scored(pair.prompt, text), max_length)
                for text in (pair.chosen, pair.rejected)
            ]
            for pair in pairs
        ]
        self._chosen, self._rejected = [pair[0] for pair in encoded], [pair[1] for pair in encoded]
        self.num_equal = sum(chosen == rejected for chosen, rejected in encoded)  # nothing is learned from them
        reward_model.require_positions(max((len(ids) for pair in encoded for ids in pair), default=0))
        self.count = len(pairs)
        self.batch = Batch()
        can_pack(reward_model.backbone, length=0)

    def rows_of(self, step: int, *, epochs: int | None) -> list[int]:
        """Pairs of step `step`, counted from 1; with `epochs` the last step ends where the last epoch does."""
        return minibatch_at(step, self.count, self.config.minibatch, self._key, epochs=epochs)

    def loss_shares(self, rows: Sequence[int], diagnostics: Diagnostics) -> Iterator[LossShare]:
        """Callables, this rank's, that sum to the pairs' weighted mean loss; each adds its diagnostics when called."""
        total_weight = sum(self._weights[row] for row in rows)
        rows = sorted(rows)
        self.batch.begin(rows, self._described)
        lengths = [pair_length(self._chosen[row], self._rejected[row]) for row in rows]
        for group, counts in dealt(length_groups(lengths, self.config.microbatch)):
            members = [rows[i] for i in group]
            if counts:
                yield partial(self._share, members, total_weight, len(rows), diagnostics)
            else:
                yield idle(partial(self._share, members, total_weight, len(rows), defaultdict(list)))

    def _share(self, rows: Sequence[int], total_weight: float, count: int, diagnostics: Diagnostics) -> Tensor:
        """Chosen and rejected go through the model together, so that one forward pass serves a microbatch."""
        output = self.reward_model.forward_pairs(
            [self._chosen[row] for row in rows], [self._rejected[row] for row in rows]
        )
        chosen_P, rejected_P = output.rewards_B.split(len(rows))
        self.batch.note(rows, chosen_reward=chosen_P, rejected_reward=rejected_P)
        weight_P = torch.tensor([self._weights[row] for row in rows], device=chosen_P.device)
        with torch.no_grad():
            share = len(rows) / count
            diagnostics["accuracy"].append(float(pair_accuracy(chosen_P, rejected_P)) * share)
            diagnostics["margin"].append(float((chosen_P - rejected_P).mean()) * share)
            diagnostics["reward_mean"].append(float((chosen_P + rejected_P).mean()) / 2 * share)
        loss = bradley_terry_loss(chosen_P, rejected_P, weight_P, denominator=total_weight)
        diagnostics["bradley_terry"].append(float(loss.detach()))
        return loss

    def _described(self, row: int) -> Row:
        pair = self._pairs[row]
        prompt = {
            "prompt_id": pair.prompt.prompt_id,
            "instruction": pair.prompt.instruction,
            "input": pair.prompt.input,
        }
        return prompt | {"chosen": pair.chosen, "rejected": pair.rejected, "weight": pair.weight}


class PairsTask(UpdaterTask):
    """Pairs -> reward model. Every pair is seen `epochs` times; the last minibatch may be short.

    Args:
        total_steps: this many full minibatches instead of `epochs` passes, for a control that is matched in steps.
        max_length: tokens of prompt and response, cut on the right.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        template: PromptTemplate,
        pairs: Sequence[PreferencePair],
        config: RewardTrainingConfig,
        *,
        seed_parts: tuple[KeyPart, ...],
        max_length: int,
        total_steps: int | None = None,
        deepspeed: DeepSpeedConfig | None = None,
    ) -> None:
        self.reward_model = reward_model
        self.batches = PairBatches(reward_model, template, pairs, config, seed_parts=seed_parts, max_length=max_length)
        own_steps = steps_of(self.batches.count, config.epochs, config.minibatch)
        self.total_steps = own_steps if total_steps is None else total_steps
        self.epochs = config.epochs if self.total_steps == own_steps else None
        group = ParameterGroup("reward", {"reward": reward_model})
        self.updater = new_updater(
            [group], config.optimizer, self.total_steps, device_of_module(reward_model), deepspeed
        )

    def step(self, step: int) -> dict[str, float]:
        self.reward_model.train()
        diagnostics: Diagnostics = defaultdict(list)
        rows = self.batches.rows_of(step, epochs=self.epochs)
        metrics = self.updater.update(self.batches.loss_shares(rows, diagnostics), index=step - 1)
        found = {name: sum(values) for name, values in of_all_ranks(diagnostics).items()}
        del found["bradley_terry"]  # it is the loss
        return metrics | found

    def failed_batch(self) -> list[Row]:
        return self.batches.batch.read()


def device_of_module(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device
