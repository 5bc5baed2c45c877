"""UML: Bradley-Terry on the pairs and the multi-view loss on the policy's answers, L = BT + lambda * L_M (METHOD 2).

First heads and critic learn alone on detached v, then everything together while beta rises (METHOD
7.15): without the warm-up the representation collapses and L_M does nothing (SANDBOX.md lesson 4).

Shapes: B = policy pairs of a microbatch, D = hidden width of the reward model, K = width of z.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.config.sections.reward import MultiViewConfig, RefineRmConfig
from rlp_engine.data.records import PreferencePair
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.methods.multi_view import MultiViewKind, beta_at, multi_view_loss
from rlp_engine.methods.multi_view_heads import Critic, Standardise, ViewHeads
from rlp_engine.methods.mutual_information import negative_pairs
from rlp_engine.models.reward import RewardModel
from rlp_engine.randomness import KeyPart, normals, torch_seed
from rlp_engine.training.checkpoint import TaskState
from rlp_engine.training.dealing import all_ranks_rows, of_all_ranks
from rlp_engine.training.deepspeed import new_updater
from rlp_engine.training.failed_batch import Batch, Row
from rlp_engine.training.optimizer import LossShare, ParameterGroup
from rlp_engine.training.order import steps_of
from rlp_engine.training.pairs import Diagnostics, PairBatches, device_of_module
from rlp_engine.training.steps import UpdaterTask
from rlp_engine.training.views import ViewPair, ViewPairs, numbered

MINIMA = frozenset({"min_sigma"})
STANDARDISE_STEPS = 16  # steps whose views v is standardised by: 512 answers at 16 pairs a step


class MultiViewTask(UpdaterTask):
    """Pairs and policy answers -> refined reward model, with `config.multi_view.warmup_steps` steps before.

    Args:
        template: made with the reward model's tokenizer.
        view_pairs: the views of each step (`views.view_pairs`).
        kind: uml, or one of its ablations (METHOD 2.5).
        seed_parts: (seed, round, stage name), the start of every random key.
        total_steps: of joint training, full minibatches; None = `config.epochs` passes over the pairs.
        max_length: tokens of prompt and response, cut on the right.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        template: PromptTemplate,
        pairs: Sequence[PreferencePair],
        view_pairs: ViewPairs,
        config: RefineRmConfig,
        *,
        kind: MultiViewKind,
        seed_parts: tuple[KeyPart, ...],
        max_length: int,
        total_steps: int | None = None,
        deepspeed: DeepSpeedConfig | None = None,
    ) -> None:
        self.reward_model, self.config, self.kind = reward_model, config.multi_view, kind
        self.batches = PairBatches(reward_model, template, pairs, config, seed_parts=seed_parts, max_length=max_length)
        self.view_pairs = view_pairs
        own_steps = steps_of(self.batches.count, config.epochs, config.minibatch)
        self.joint_steps = own_steps if total_steps is None else total_steps
        self.epochs = config.epochs if self.joint_steps == own_steps else None
        self.total_steps = self.config.warmup_steps + self.joint_steps
        device = device_of_module(reward_model)
        self.heads, self.critic = new_heads(reward_model, self.config, kind, (*seed_parts, "heads"))
        self.heads.to(device)
        if isinstance(self.heads.norm, Standardise):
            self.heads.norm.fit(self._starting_states())
        modules = {"heads": self.heads}
        if self.critic is not None:
            modules["critic"] = self.critic.to(device)
        groups = [
            ParameterGroup("reward", {"reward": reward_model}),
            ParameterGroup("heads", modules, learning_rate=self.config.learning_rate, constant=True),
        ]
        self.updater = new_updater(groups, config.optimizer, self.joint_steps, device, deepspeed)
        self._views = Batch()
        self._collapsed = 0.0  # how steadily the last joint steps looked collapsed, 0 to 1
        self._warnings: list[str] = []

    def _starting_states(self) -> Tensor:
        """(N, D): v of the untrained reward model for views of the first steps; a restart finds the same."""
        pairs = [pair for step in range(1, STANDARDISE_STEPS + 1) for pair in self.view_pairs.of_step(step)]
        sequences = [view for pair in pairs for view in pair.views]
        return self.reward_model.embed(sequences, microbatch=self.config.microbatch).hidden_BD

    def step(self, step: int) -> dict[str, float]:
        joint_step = step - self.config.warmup_steps
        diagnostics: Diagnostics = defaultdict(list)
        if joint_step < 1:
            self.reward_model.eval()
            shares = self.view_shares(step, diagnostics, is_warmup=True)
            metrics = self.updater.update(shares, index=0, resting=["reward"])
        else:
            self.reward_model.train()
            metrics = self.updater.update(self._joint_shares(step, joint_step, diagnostics), index=joint_step - 1)
        metrics |= {"warmup": float(joint_step < 1)} | combined(of_all_ranks(diagnostics))
        self._watch(joint_step, metrics)
        return metrics

    def _watch(self, joint_step: int, metrics: dict[str, float]) -> None:
        """A representation that has collapsed leaves the reward model as it was: a no-op that looks like a result."""
        self._warnings = []
        if joint_step < 1 or "collapsed" not in metrics:
            return
        self._collapsed += 0.1 * (metrics["collapsed"] - self._collapsed)
        if joint_step == self.joint_steps and self._collapsed > 0.5:
            self._warnings = [
                f"the multi-view representation has collapsed (J {metrics['jsd']:.3f}, SKL {metrics['skl']:.4f}): "
                "L_M did nothing. refine_rm.multi_view.normalise = 'standardise', more warmup_steps or a lower "
                "beta_end may help"
            ]

    def _joint_shares(self, step: int, joint_step: int, diagnostics: Diagnostics) -> Iterator[LossShare]:
        yield from self.batches.loss_shares(self.batches.rows_of(joint_step, epochs=self.epochs), diagnostics)
        yield from self.view_shares(step, diagnostics, is_warmup=False)

    def view_shares(self, step: int, diagnostics: Diagnostics, *, is_warmup: bool) -> Iterator[LossShare]:
        """Callables that sum to lambda * L_M over all ranks; to L_M itself in the warm-up.

        L_M is the mean over microbatches, weighted by their pairs: the microbatch is part of the
        method, because negatives come from the same one.
        """
        beta = self.config.beta_start
        if not is_warmup:
            joint_step = step - self.config.warmup_steps
            beta = beta_at(
                joint_step, self.joint_steps, self.config.beta_start, self.config.beta_end, self.config.beta_ramp
            )
        pairs = self.view_pairs.of_step(step)
        self._views.begin(range(len(pairs)), lambda row: self._described(pairs[row]))
        parts = np.array_split(np.arange(len(pairs)), math.ceil(len(pairs) / self.config.microbatch))
        for rows in parts:
            yield partial(self._view_share, pairs, rows.tolist(), beta, is_warmup, diagnostics)

    def _view_share(
        self, all_pairs: Sequence[ViewPair], rows: list[int], beta: float, is_warmup: bool, diagnostics: Diagnostics
    ) -> Tensor:
        pairs = [all_pairs[row] for row in rows]
        v1_BD, v2_BD = self._states(pairs, is_warmup=is_warmup)
        self._views.note(rows, state_norm_1=v1_BD.detach().norm(dim=1), state_norm_2=v2_BD.detach().norm(dim=1))
        noise1_BK, noise2_BK = (self._noise(pairs, view).to(v1_BD.device) for view in (0, 1))
        loss, found = multi_view_loss(
            self.kind,
            self.heads,
            self.critic,
            v1_BD,
            v2_BD,
            self._negatives(pairs).to(v1_BD.device),
            noise1_BK,
            noise2_BK,
            beta,
            skl=self.config.skl,
            temperature=self.config.temperature,
        )
        share = len(pairs) / len(all_pairs)
        if world().is_leader:  # all ranks have found the same
            diagnostics["multi_view"].append(float(loss.detach()) * share)
            for name, value in found.items():
                diagnostics[name].append(float(value) * (1.0 if name in MINIMA else share))
        return loss * share * (1.0 if is_warmup else self.config.weight) / world().size

    def _states(self, pairs: Sequence[ViewPair], *, is_warmup: bool) -> list[Tensor]:
        """[v1, v2], each (B, D). Every rank reads its part of the pairs and gets the states of all: negatives come
        from all of them, and every rank computes the same loss, of which it gives its part."""
        own = [pairs[row] for row in world().share(len(pairs))]
        read = own or pairs[:1]  # a rank without a pair takes part in the passes all the same
        first, second = ([pair.views[view] for pair in read] for view in (0, 1))
        with torch.set_grad_enabled(not is_warmup):  # the warm-up's v is detached
            states = self.reward_model.forward_pairs(first, second).hidden_BD.split(len(read))
            return [all_ranks_rows(v_BD[: len(own)]) for v_BD in states]

    def _negatives(self, pairs: Sequence[ViewPair]) -> Tensor:
        """(B, B) bool."""
        groups = numbered([pair.groups[0] for pair in pairs] + [pair.groups[1] for pair in pairs])
        left_B, right_B = torch.tensor(groups).split(len(pairs))
        stratum_B = torch.tensor(numbered([pair.stratum for pair in pairs]))
        return negative_pairs(left_B, self.config.negatives, right_group_B=right_B, stratum_B=stratum_B)

    def _noise(self, pairs: Sequence[ViewPair], view: int) -> Tensor:
        """(B, K): a function of the pair, not of its place in a batch."""
        rows = [normals(self.config.latent_size, *pair.key, view) for pair in pairs]
        return torch.from_numpy(np.stack(rows)).float()

    def warnings(self) -> list[str]:
        return self._warnings

    def _described(self, pair: ViewPair) -> Row:
        tokenizer = self.reward_model.tokenizer
        return {"view_1": tokenizer.decode(pair.views[0]), "view_2": tokenizer.decode(pair.views[1])}

    def failed_batch(self) -> list[Row]:
        return self.batches.batch.read() + self._views.read()

    def state(self) -> TaskState:
        return TaskState(self.updater.tensors(), {"collapsed": self._collapsed})

    def restore(self, state: TaskState) -> None:
        self.updater.restore(state.tensors)
        self._collapsed = state.values["collapsed"]


def combined(diagnostics: Diagnostics) -> dict[str, float]:
    """Diagnostics of a step from its microbatches': shares add up, and of minima the least counts."""
    return {name: min(values) if name in MINIMA else sum(values) for name, values in diagnostics.items()}


def new_heads(
    reward_model: RewardModel, config: MultiViewConfig, kind: MultiViewKind, key: tuple[KeyPart, ...]
) -> tuple[ViewHeads, Critic | None]:
    """Heads and critic with weights drawn from the key; torch's own generator is left as it was."""
    width = reward_model.head.in_features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(*key))
        heads = ViewHeads(width, config.hidden_size, config.latent_size, config.normalise)
        if kind == "cl":
            return heads, None
        left = width if kind == "infomax" else config.latent_size
        return heads, Critic(left, config.latent_size, config.hidden_size)
