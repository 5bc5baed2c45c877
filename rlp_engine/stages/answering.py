"""Answers of a policy to prompts, shard by shard, for every stage that samples.

A shard's file appears in one rename when all its answers are there, so a restarted stage keeps the
whole ones and draws the rest exactly as an uninterrupted stage would: every token's randomness is keyed
by (seed, round, stage, visit, prompt id, draw) and its position. Answers of a server (stages/server_answering.py)
are kept one by one as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.config.schema import GenerationConfig
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import iterate_samples, write_jsonl
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import DataError
from rlp_engine.generation.native import Request, Sampling, generate
from rlp_engine.models.policy import Policy
from rlp_engine.randomness import KeyPart
from rlp_engine.run.signals import StopSignal
from rlp_engine.stages.common import shard_files, shards
from rlp_engine.stages.spec import StageContext, is_by_server


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
        """`draws` answers to each prompt, in the order of the prompts."""
        requests = [
            Request(prompt_ids=ids, key=(*self.key, prompt.prompt_id, draw))
            for prompt in prompts
            for ids in [self.encode(prompt)]
            for draw in range(draws)
        ]
        completions = generate(self.policy.model, requests, self.sampling, rows=self.rows, stop=stop)
        wanted = [(prompt, draw) for prompt in prompts for draw in range(draws)]
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
    return Answerer(policy, template, sampling, generation.rows, generation.max_prompt_tokens, key)


def stage_answerer(
    context: StageContext,
    policy: Policy,
    template: PromptTemplate,
    name: Path | str,
    *,
    temperature: float,
    top_p: float,
    key: tuple[KeyPart, ...],
) -> Answerer:
    """As `answerer`, by the engine that [generation] names; only stages that declare it may ask.

    Args:
        name: the policy's folder or hub id, which a server knows it by.
    """
    generation = context.config.generation
    native = answerer(policy, template, generation, temperature=temperature, top_p=top_p, key=key)
    if not is_by_server(context.spec):
        return native
    from rlp_engine.stages.server_answering import Connection, ServerAnswerer  # it builds on this module

    parts = {field.name: getattr(native, field.name) for field in dataclasses.fields(native)}
    return ServerAnswerer(**parts, connection=Connection(context, generation.server, str(name)))


def answer_in_shards(
    context: StageContext, source: Answerer, prompts: Sequence[Prompt], draws: int, folder: str, shard_prompts: int
) -> list[Path]:
    """Write OUT/folder/shard_NNNNN.jsonl, keeping the shards that are already whole; all shard files in order."""
    target = context.out / folder
    target.mkdir(parents=True, exist_ok=True)
    done = 0
    for name, members in shards(prompts, shard_prompts):
        path = target / f"{name}.jsonl"
        if not path.exists():
            context.stop.check(f"{context.spec.name}; whole shards are kept")
            source.write_shard(context, path, members, draws)
        done += len(members)
        context.reporter.progress(context.spec.name, done, len(prompts), "prompts")
    return shard_files(target)


def short_enough(
    context: StageContext, prompts: Sequence[Prompt], template: PromptTemplate, limit: int
) -> list[Prompt]:
    """The prompts of at most `limit` tokens; longer ones are dropped and counted, never cut (METHOD 5.1).

    So are prompts of which the tokenizer makes no token: a policy has nothing to go on from.

    Raises:
        DataError: no prompt is left.
    """
    lengths = [len(template.encode_prompt(prompt)) for prompt in prompts]
    too_long, empty = sum(length > limit for length in lengths), lengths.count(0)
    if too_long + empty == len(prompts):
        raise DataError(
            f"none of {len(prompts)} prompts has between 1 and {limit} tokens",
            where=f"generation.max_prompt_tokens = {limit}",
            found=f"{too_long} longer ones, {empty} without a token",
            mend="raise generation.max_prompt_tokens, or give shorter instructions",
        )
    if too_long:
        context.reporter.warn(
            f"{too_long} of {len(prompts)} prompts are longer than generation.max_prompt_tokens = {limit} "
            "and are left out"
        )
    if empty:
        context.reporter.warn(f"{empty} of {len(prompts)} prompts have no token and are left out")
    return [prompt for prompt, length in zip(prompts, lengths, strict=True) if 0 < length <= limit]


def iterate_folder(folder: Path) -> Iterator[list[Sample]]:
    """The samples of each shard, one shard in memory at a time."""
    for path in shard_files(folder):
        yield list(iterate_samples(path))
