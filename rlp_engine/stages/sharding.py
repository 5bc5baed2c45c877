"""Shards of a stage over the ranks: who makes which, where all meet again, and the prompts that go with a shard.

Shard i is made by rank i mod size. What is in a shard depends on the data and on the config alone, so that one process
and a hundred leave the same files, and a run may go on with another number of them. The ranks do not wait for each
other between shards; after the last one they meet, and what is global is the leader's work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import iterate_prompts
from rlp_engine.distributed.world import world
from rlp_engine.errors import CorruptArtifactError, Interrupted
from rlp_engine.stages.spec import StageContext


def is_own(number: int) -> bool:
    """Is this shard this rank's to make?"""
    return number % world().size == world().rank


def warn_if_idle(context: StageContext, shards: int, *, key: str) -> None:
    """Say so, once, when some ranks have no shard. `key` is the setting that makes more of them."""
    here = world()
    if here.is_leader and 0 < shards < here.size:
        context.reporter.warn(
            f"{context.spec.name}: {shards} shards for {here.size} ranks, so {here.size - shards} of them have nothing "
            f"to do; smaller shards ({key}) would share the work"
        )


@contextmanager
def all_ranks(context: StageContext, kept: str) -> Iterator[None]:
    """Around the making of shards: it is left when every rank has come to its end, or to its stop.

    Args:
        kept: what people are told of a stop: what is not lost.

    Raises:
        Interrupted: at every rank, when one of them was asked to stop. The others finish their shards first, unless
            the signal came to them too.
    """
    where = f"{context.spec.name}; {kept}"
    try:
        yield
    except Interrupted:
        _meet(context)
        raise
    if number := _meet(context):
        context.stop.request(number)
        context.stop.check(where)


def _meet(context: StageContext) -> int:
    """Wait for all ranks; the signal that one of them got, or 0."""
    return world().largest(context.stop.signal_number)


class PromptsInOrder:
    """The prompts of a file, read forward once: a shard's are found without holding all of them.

    Samples stand in the order of their prompts, some of which may have been left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = iterate_prompts(path)

    def find(self, prompt_ids: Iterable[str]) -> dict[str, Prompt]:
        """The prompts of these ids, which come after all that was asked for before.

        Raises:
            CorruptArtifactError: the file has no such prompt, or not in this order.
        """
        missing = dict.fromkeys(prompt_ids)
        found: dict[str, Prompt] = {}
        while missing:
            prompt = next(self._left, None)
            if prompt is None:
                raise CorruptArtifactError(
                    f"samples answer prompt {next(iter(missing))!r}, which {self._path.name} does not have there",
                    where=str(self._path),
                    mend="run `sample` again: its samples do not belong to these prompts",
                )
            if prompt.prompt_id in missing:
                del missing[prompt.prompt_id]
                found[prompt.prompt_id] = prompt
        return found
