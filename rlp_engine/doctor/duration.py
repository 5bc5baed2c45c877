"""How long each stage takes, from the arithmetic it does and the bytes it reads. Torch-free.

Per token of a model with P parameters: a forward pass is 2 P FLOP, a backward pass 4 P (2 P where only adapters learn),
gradient checkpointing one more forward pass. Decoding reads the weights once a step and every row's cache: it takes as
long as that, or as its arithmetic where that is longer. Attention's own products, loading, and what ranks tell each
other are left out. Texts are as long as the config lets them be, so a run on shorter ones takes less.

Sources: Kaplan et al. 2020 (arXiv:2001.08361), section 2.1 (2 P and 4 P); Pope et al. 2022 (arXiv:2211.05102),
section 2 (decoding). Letters: P parameters, N ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlp_engine.config.schema import MULTI_VIEW, SYNTHESIS, RunConfig
from rlp_engine.doctor.hardware import Rates
from rlp_engine.doctor.memory import DRAWS_AT_ONCE
from rlp_engine.doctor.parts import WIDTHS
from rlp_engine.doctor.shapes import Models, ModelShape, pair_tokens
from rlp_engine.stages.branches import policies, reward_models
from rlp_engine.stages.spec import StageSpec

Rows = Mapping[str, int | None]


class UnknownRows(Exception):
    """A table whose size is not known; `doctor` says so of the stage."""


def stages_seconds(
    config: RunConfig, pipeline: Sequence[StageSpec], models: Models, rows: Rows, rates: Rates, ranks: int
) -> dict[str, float | None]:
    """Stage -> seconds, None where a table's size is not known.

    Args:
        rows: of each table of [data].
        rates: of one rank.
    """
    work = _Work(config, models, rows, rates, ranks)
    found: dict[str, float | None] = {}
    for spec in pipeline:
        try:
            found[spec.name] = work.of(spec)
        except UnknownRows:
            found[spec.name] = None
    return found


class _Work:
    """Seconds of the stages of one config."""

    def __init__(self, config: RunConfig, models: Models, rows: Rows, rates: Rates, ranks: int) -> None:
        self.config, self.models, self._rows, self._rates, self._ranks = config, models, rows, rates, ranks
        self.width = WIDTHS[config.model.dtype]
        self.prompt, self.response = config.generation.max_prompt_tokens, config.generation.max_new_tokens

    def of(self, spec: StageSpec) -> float:
        kind = spec.kind.replace("-", "_")
        if kind == "synthesize":
            return self._synthesize(spec.params["selection"])
        if kind == "refine_rm":
            return self._refine_rm(spec.params["method"])
        return getattr(self, f"_{kind}")()

    # --- stages

    def _prepare(self) -> float:
        return 0.0

    def _sft(self) -> float:
        sft = self.config.sft
        tokens = sft.epochs * self._count("demonstrations") * sft.max_length
        return self._learn(self.models.policy, self.models.policy.parameters, tokens)

    def _collect(self) -> float:
        collect = self.config.collect
        if collect.source == "file":
            return 0.0
        prompts, draws = self._count("preference_instructions"), 2 * collect.pairs_per_instruction
        seconds = self._generate(prompts, draws, shard=DRAWS_AT_ONCE)
        return seconds + self._judge(self.models.annotator, prompts * draws, collect.annotator.max_length)

    def _train_rm(self) -> float:
        settings = self.config.train_rm
        return self._learn_pairs(settings.epochs * self._pairs())

    def _refine_rm(self, method: str) -> float:
        refine = self.config.refine_rm
        matched = refine.reseed.match if method == "reseed" else method
        # D-hat is at most a pair for each instruction of U
        synthetic = self._count("unlabeled") if matched in SYNTHESIS else 0
        pairs = refine.epochs * (self._pairs() + synthetic)
        seconds = self._learn_pairs(pairs)
        if method in MULTI_VIEW:
            views, reward = refine.multi_view, self.models.reward
            tokens = views.pairs_per_step * self._pair_tokens()
            steps = math.ceil(pairs / refine.minibatch)
            seconds += self._learn(reward, reward.classifier, steps * tokens)
            seconds += self._forward(reward.classifier, views.warmup_steps * tokens)
        return seconds

    def _ppo(self) -> float:
        config, models = self.config, self.models
        ppo, policy, reward = config.ppo, models.policy, models.reward
        tokens = ppo.rollout_batch * (self.prompt + self.response)
        read = 2 * policy.parameters + 2 * reward.classifier  # policy, reference, reward and value model
        step = self._generate(ppo.rollout_batch, 1, shard=1) + self._forward(read, tokens)
        step += ppo.epochs * self._learn(policy, policy.parameters, tokens)
        step += ppo.epochs * self._learn(reward, reward.value, tokens)
        seconds = ppo.steps * step
        if ppo.select == "judge":
            prompts = self._count("validation")
            candidates = len({step for step in ppo.candidates if step <= ppo.steps} | {ppo.steps})
            one = self._generate(prompts, 1, shard=prompts)  # the leader's work: one shard is one rank's
            one += self._judge(models.judge, prompts, config.evaluate.judge.max_length)
            seconds += candidates * one
        return seconds

    def _sample(self) -> float:
        sample, prompts = self.config.sample, self._count("unlabeled")
        of_policy = self._generate(prompts, sample.num_per_prompt, shard=sample.shard_prompts)
        return of_policy + self._generate(prompts, 1, shard=sample.shard_prompts)

    def _embed(self) -> float:
        config, reward = self.config, self.models.reward
        answers = self._count("unlabeled") * config.sample.num_per_prompt
        length = min(self.prompt + self.response, config.train_rm.max_length)
        waves = self._waves(self._count("unlabeled"), config.sample.shard_prompts)
        drift = self._forward(reward.classifier, 2 * config.embed.drift_samples * length, ranks=1)
        return self._forward(reward.classifier, answers * length) * waves + drift

    def _synthesize(self, selection: str) -> float:
        config, prompts = self.config, self._count("unlabeled")
        waves = self._waves(prompts, config.sample.shard_prompts)
        if selection == "rlaif":  # two orders, two labels
            rlaif = config.synthesize.rlaif
            return waves * self._forward(self.models.policy.parameters, prompts * 4 * rlaif.max_length)
        model, count = self.models.equivalence, config.sample.num_per_prompt
        if model is None or selection == "reward-pair":
            return 0.0
        equivalence = config.synthesize.equivalence
        # every answer a cluster of its own: all pairs one way (METHOD 3.3); an embedding is asked once an answer
        texts = count * (count - 1) // 2 if equivalence.kind == "nli" else count
        tokens = prompts * texts * equivalence.max_length
        return waves * self._forward(model.backbone, tokens, width=WIDTHS[equivalence.dtype])

    def _evaluate(self) -> float:
        config, models = self.config, self.models
        evaluate, prompts = config.evaluate, self._count(config.evaluate.instructions)
        trained, samples = len(policies(config)), prompts * evaluate.samples_per_prompt
        of_one = self._generate(prompts, 1, shard=DRAWS_AT_ONCE)
        of_one += self._generate(prompts, evaluate.samples_per_prompt, shard=DRAWS_AT_ONCE)
        seconds = (trained + 1) * of_one
        length = self.prompt + self.response
        seconds += trained * self._forward(2 * models.policy.parameters, samples * length)  # KL: both models
        seconds += (trained + 1) * self._judge(models.judge, prompts + samples, evaluate.judge.max_length)
        seconds += (
            len(reward_models(config))
            * (trained + 1)
            * self._forward(models.reward.classifier, samples * length, ranks=1)
        )
        if evaluate.best_of_n:
            seconds += self._generate(prompts, evaluate.best_of_n, shard=DRAWS_AT_ONCE)
            answers = prompts * evaluate.best_of_n
            seconds += self._forward(models.reward.classifier, answers * length, ranks=1)
        return seconds

    # --- what stages share

    def _count(self, table: str) -> int:
        rows = self._rows.get(table)
        if rows is None:
            raise UnknownRows(table)
        return rows

    def _pairs(self) -> int:
        """D: as many as can be."""
        collect = self.config.collect
        if collect.source == "file":
            return self._count("preferences")
        return self._count("preference_instructions") * collect.pairs_per_instruction

    def _pair_tokens(self) -> int:
        longest = self.config.train_rm.max_length
        if self.config.collect.source == "file":
            return 2 * longest
        prompt = min(self.prompt, longest)
        return pair_tokens(prompt, min(self.response, longest - prompt))

    def _learn_pairs(self, pairs: int) -> float:
        reward = self.models.reward
        return self._learn(reward, reward.classifier, pairs * self._pair_tokens())

    def _learn(self, shape: ModelShape, parameters: int, tokens: int) -> float:
        """Forward and backward passes over so many tokens, shared by the ranks."""
        model = self.config.model
        passes = 1 + (1 if model.lora.rank else 2) + model.gradient_checkpointing
        return self._forward(passes * parameters, tokens)

    def _forward(self, parameters: int, tokens: int, *, width: int | None = None, ranks: int | None = None) -> float:
        flops = self._rates.flops(self.width if width is None else width)
        return 2 * parameters * tokens / flops / (self._ranks if ranks is None else ranks)

    def _judge(self, judge: ModelShape | None, answers: int, longest: int) -> float:
        """The leader's work. A gold judge takes no time."""
        if judge is None:
            return 0.0
        return self._forward(judge.classifier, answers * min(longest, self.prompt + self.response), ranks=1)

    def _generate(self, prompts: int, draws: int, *, shard: int) -> float:
        """Answers of full length to so many prompts, `shard` of which go to a rank at a time.

        Rows that have ended are filled again, so all rows of a rank are always busy but at the end.
        """
        policy, config = self.models.policy, self.config.generation
        own = math.ceil(prompts / self._ranks * self._waves(prompts, shard))  # the busiest rank's prompts
        prefill = self._forward(policy.parameters, own * self.prompt, ranks=1)
        rows = min(own * draws, config.rows)
        steps = own * draws / rows * self.response
        column = 2 * policy.layers * policy.key_value_heads * policy.head_size * self.width
        cached = rows * self.response / 2 + rows / draws * self.prompt  # answers share their prompt's columns
        reading = (policy.parameters * self.width + cached * column) / self._rates.bandwidth
        computing = 2 * policy.parameters * rows / self._rates.flops(self.width)
        return prefill + steps * max(reading, computing)

    def _waves(self, prompts: int, shard: int) -> float:
        """Whole shards do not always divide among the ranks: the busiest one's share over an even share, >= 1."""
        shards = math.ceil(prompts / shard)
        busiest = min(prompts, math.ceil(shards / self._ranks) * shard)
        return busiest * self._ranks / prompts
