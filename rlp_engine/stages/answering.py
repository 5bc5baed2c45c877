"""Answers of a policy to prompts, shard by shard, for every stage that samples.

A shard's file appears in one rename when all its answers are there, so a restarted stage keeps the
whole ones and draws the rest exactly as an uninterrupted stage would: every token's randomness is keyed
by (seed, round, stage, visit, prompt id, draw) and its position. Answers of a server (stages/server_answering.py)
are kept one by one as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rlp_engine.config.sections.generation import GenerationConfig
from rlp_engine.data.cuts import Cuts
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import iterate_samples, write_jsonl
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.errors import DataError
from rlp_engine.generation.native import Request, Sampling, generate
from rlp_engine.models.finite import require_finite
from rlp_engine.models.inputs import position_limit, require_positions
from rlp_engine.models.policy import Policy
from rlp_engine.randomness import KeyPart
from rlp_engine.run.signals import StopSignal
from rlp_engine.stages.common import shard_files, shards, warn_of
from rlp_engine.stages.sharding import all_ranks, is_own
from rlp_engine.stages.spec import StageContext


@dataclass(frozen=True)
class Answerer:
    """A policy with its prompt template, sampling settings and the key its randomness starts from."""

    policy: Policy
    template: PromptTemplate
    sampling: Sampling
    rows: int  # sequences decoded side by side
    max_prompt_tokens: int
    key: tuple[KeyPart, ...]  # (seed, round, stage, visit)

    def answer(self, prompts: Sequence[Prompt], draws: int, *, stop: StopSignal | None = None) -> list[Sample]:
        """`draws` answers to each prompt, in the order of the prompts.

        Raises:
            HealthError: a log-probability is not finite.
        """
        requests = [
            Request(prompt_ids=ids, key=(*self.key, prompt.prompt_id, draw))
            for prompt in prompts
            for ids in [self.encode(prompt)]
            for draw in range(draws)
        ]
        completions = generate(self.policy.model, requests, self.sampling, rows=self.rows, stop=stop)
        wanted = [(prompt, draw) for prompt in prompts for draw in range(draws)]
        require_finite(
            (completion.logprob for completion in completions),
            "the log-probability of an answer",
            model=str(self.policy.model.config.name_or_path),
            place=lambda index: f"prompt {wanted[index][0].prompt_id}",
        )
        return [
            Sample(
                prompt_id=prompt.prompt_id,
                draw=draw,
                text=self.policy.answer_text(completion.token_ids),
                token_ids=completion.token_ids,
                finish_reason=completion.finish_reason,
                logprob=completion.logprob,
            )
            for (prompt, draw), completion in zip(wanted, completions, strict=True)
        ]

    def write_shard(self, context: StageContext, path: Path, prompts: Sequence[Prompt], draws: int) -> None:
        """All answers to these prompts, as one file."""
        write_jsonl(path, self.answer(prompts, draws, stop=context.stop))

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of the prompt, its beginning cut off when it is longer than the limit.

        Raises:
            DataError: the prompt has no token.
        """
        ids = self.template.cut_prompt(self.template.encode_prompt(prompt), self.max_prompt_tokens)
        if not ids:
            raise DataError(
                "the tokenizer makes no token of an instruction, so the policy has nothing to go on from",
                where=f"prompt {prompt.prompt_id}: {prompt.instruction[:40]!r}",
                mend="take it out of the data, or set model.template = 'alpaca'",
            )
        return ids


def answerer(
    policy: Policy,
    template: PromptTemplate,
    generation: GenerationConfig,
    *,
    temperature: float,
    top_p: float,
    key: tuple[KeyPart, ...],
) -> Answerer:
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=generation.max_new_tokens,
        eos_ids=policy.eos_ids,
        pad_id=policy.tokenizer.pad_token_id,
    )
    return Answerer(policy, template, sampling, generation.rows, prompt_room(policy.model, generation), key)


def prompt_room(model: nn.Module, generation: GenerationConfig) -> int:
    """Tokens of a prompt that are read: max_prompt_tokens, or what an answer leaves of the model's positions.

    Where an answer leaves nothing the limit stays, and `generate` says so.
    """
    positions = position_limit(model)
    room = None if positions is None else positions - generation.max_new_tokens
    return min(generation.max_prompt_tokens, room) if room is not None and room > 0 else generation.max_prompt_tokens


def answer_in_shards(
    context: StageContext,
    source: Answerer,
    prompts: Iterable[Prompt],
    draws: int,
    folder: str,
    shard_prompts: int,
    *,
    total: int,
) -> list[Path]:
    """Write OUT/folder/shard_NNNNN.jsonl, keeping the shards that are already whole; all shard files in order.

    Every rank makes its own shards, and all of them are there when this returns.

    Args:
        prompts: read as they are needed, one shard at a time.
        total: how many there are at most, for the progress line.
    """
    target = context.out / folder
    target.mkdir(parents=True, exist_ok=True)
    done = 0
    with all_ranks(context, "whole shards are kept"):
        for number, (name, members) in enumerate(shards(prompts, shard_prompts)):
            path = target / f"{name}.jsonl"
            if is_own(number) and not path.exists():
                context.stop.check(f"{context.spec.name}; whole shards are kept")
                source.write_shard(context, path, members, draws)
            done += len(members)
            context.reporter.progress(context.spec.name, done, total, "prompts")
    return shard_files(target)


class LengthFilter:
    """Prompts of at most `limit` tokens (None: of any length); longer ones are dropped and counted, never cut
    (METHOD 5.1).

    So are prompts of which the tokenizer makes no token: a policy has nothing to go on from.
    """

    def __init__(self, template: PromptTemplate, limit: int | None) -> None:
        self.seen = self.too_long = self.empty = 0
        self._template, self._limit = template, limit

    @property
    def kept(self) -> int:
        return self.seen - self.too_long - self.empty

    def of(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        """Those that stay, one at a time."""
        for prompt in prompts:
            length = len(self._template.encode_prompt(prompt))
            is_long = self._limit is not None and length > self._limit
            self.seen += 1
            self.too_long += is_long
            self.empty += length == 0
            if length and not is_long:
                yield prompt

    def tell(self, context: StageContext) -> None:
        """Warn of what was left out.

        Raises:
            DataError: no prompt is left.
        """
        if self.kept == 0 and self._limit is None:
            raise DataError(
                f"none of {self.seen} prompts has a token",
                where=str(self._template.tokenizer.name_or_path),
                mend="give instructions with text that the tokenizer knows, or set model.template = 'alpaca'",
            )
        if self.kept == 0:
            raise DataError(
                f"none of {self.seen} prompts has between 1 and {self._limit} tokens",
                where=f"generation.max_prompt_tokens = {self._limit}",
                found=f"{self.too_long} longer ones, {self.empty} without a token",
                mend="raise generation.max_prompt_tokens, or give shorter instructions",
            )
        if not world().is_leader:  # every rank counts the same ones
            return
        if self.too_long:
            context.reporter.warn(
                f"{self.too_long} of {self.seen} prompts are longer than generation.max_prompt_tokens = {self._limit} "
                "and are left out"
            )
        if self.empty:
            context.reporter.warn(f"{self.empty} of {self.seen} prompts have no token and are left out")


def tell_cut_prompts(context: StageContext, source: Answerer, prompts: Sequence[Prompt]) -> None:
    """Every judged instruction is answered: the beginning of one that is too long is cut off, and that is said."""
    cuts, limit = Cuts(), source.max_prompt_tokens
    for prompt in prompts:
        cuts.keep(source.template.encode_prompt(prompt), limit)
    is_by_config = limit == context.config.generation.max_prompt_tokens
    name = "generation.max_prompt_tokens" if is_by_config else "what an answer leaves of the model's positions"
    warn_of(context, [f"{line} at their beginning" for line in cuts.told("instructions", f"{name} = {limit}")])


def require_room(
    models: Mapping[str, nn.Module], template: PromptTemplate, prompts: Sequence[Prompt], generation: GenerationConfig
) -> None:
    """Every prompt and an answer to it fit in each of these models (name in words -> model), before the work starts.

    Raises:
        ModelError: naming the model and its positions.
    """
    longest = max(len(template.encode_prompt(prompt)) for prompt in prompts) + generation.max_new_tokens
    mend = "lower generation.max_prompt_tokens or generation.max_new_tokens: {limit} together"
    for name, module in models.items():
        require_positions(module, longest, what=name, mend=mend)


def short_enough(
    context: StageContext, prompts: Sequence[Prompt], template: PromptTemplate, limit: int | None
) -> list[Prompt]:
    """The prompts that `LengthFilter` keeps. Raises DataError when none is left."""
    lengths = LengthFilter(template, limit)
    kept = list(lengths.of(prompts))
    lengths.tell(context)
    return kept


def iterate_folder(folder: Path) -> Iterator[list[Sample]]:
    """The samples of each shard, one shard in memory at a time."""
    for path in shard_files(folder):
        yield list(iterate_samples(path))
