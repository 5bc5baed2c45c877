"""What several stages do alike: the device, a training loop with this run's settings, batches of work in shards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.models.device import apply_threads, device_name, device_of
from rlp_engine.models.reward import ResponseScorer, RewardModel, load_reward
from rlp_engine.stages.spec import StageContext
from rlp_engine.training.pairs import PairBatches
from rlp_engine.training.steps import Task, UpdaterTask, run_steps

Result = TypeVar("Result")

T = TypeVar("T")


def prepare_device(context: StageContext) -> torch.device:
    """Set the number of CPU threads, and find the device of this process, whose name goes to stage.json.

    Raises:
        ConfigError: if CUDA is asked for and there is none.
    """
    apply_threads(context.config.compute)
    device = device_of(context.config.compute)
    context.on_device(device_name(device))
    return device


def train(context: StageContext, task: Task, after_step: Callable[[int], None] | None = None) -> dict[str, float]:
    """Run a training task to its end, or to a checkpoint when asked to stop; metrics of the last step."""
    return run_steps(
        task,
        out=context.out,
        checkpoint=context.config.checkpoint,
        log=context.config.log,
        name=context.spec.name,
        reporter=context.reporter,
        stop=context.stop,
        events=context.events,
        after_step=after_step,
    )


def after_training(task: UpdaterTask, work: Callable[[], Result]) -> Result:
    """What is done once with the trained models: at the leader, their weights whole. All ranks get what JSON holds of
    the result."""
    with task.updater.whole_weights():
        return world().broadcast(work() if world().is_leader else None)


def warn_of(context: StageContext, *lines: list[str]) -> None:
    """The leader's warnings of this stage; every rank counts the same."""
    if world().is_leader:
        for line in itertools.chain(*lines):
            context.reporter.warn(f"{context.spec.name}: {line}")


def warn_of_pairs(context: StageContext, batches: PairBatches) -> None:
    """Say which of the pairs a reward model does not read whole, or cannot learn from."""
    limit = f"train_rm.max_length = {context.config.train_rm.max_length}"
    equal = f"{batches.num_equal} of {batches.count} pairs are equal as the reward model reads them: they teach nothing"
    warn_of(
        context,
        batches.cuts.told("answers of the pairs, with their prompts,", limit),
        [equal] * bool(batches.num_equal),
    )


def response_scorer(
    context: StageContext, source: Path | str, device: torch.device, *, microbatch: int, max_length: int
) -> ResponseScorer:
    """A trained reward model that scores text which it tokenizes itself."""
    reward_model = load_reward(source, context.config.model, device=device)
    return scorer_of(context, reward_model, microbatch=microbatch, max_length=max_length)


def scorer_of(context: StageContext, reward_model: RewardModel, *, microbatch: int, max_length: int) -> ResponseScorer:
    template = PromptTemplate(context.config.model.template, reward_model.tokenizer)
    return ResponseScorer(reward_model, template, microbatch=microbatch, max_length=max_length)


def shard_files(folder: Path) -> list[Path]:
    """The shards of a folder in order: by number, which has more than five digits from 100,000 on."""
    found = (path for path in folder.iterdir() if path.name.startswith("shard_"))
    return sorted(found, key=lambda path: (len(path.name), path.name))


def shards(items: Iterable[T], size: int) -> Iterator[tuple[str, list[T]]]:
    """("shard_00000", items) in order, one shard in memory at a time; the last one may be shorter."""
    left = iter(items)
    for number in itertools.count():
        members = list(itertools.islice(left, size))
        if not members:
            return
        yield f"shard_{number:05d}", members
