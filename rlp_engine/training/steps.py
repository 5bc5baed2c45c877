"""The step loop of every training stage: continue, step, check, log, checkpoint, stop on a signal."""

from __future__ import annotations

import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlp_engine.config.sections.training import CheckpointConfig, LogConfig
from rlp_engine.distributed.world import world
from rlp_engine.errors import HealthError, ResourceError
from rlp_engine.run.atomic import write_text
from rlp_engine.run.events import EventLog, MetricsLog, finite
from rlp_engine.run.reporting import Reporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.training import checkpoint as checkpoints
from rlp_engine.training.checkpoint import Search, TaskState
from rlp_engine.training.deepspeed import DeepSpeedUpdater
from rlp_engine.training.failed_batch import Row, failed_batch_path, not_finite_in, write_failed_batch
from rlp_engine.training.health import check_metrics
from rlp_engine.training.optimizer import Updater


class Task(ABC):
    """One training stage: what a step is, and what must be saved to go on after it.

    What a step does has to be a function of the step number, the constructor's arguments and the state:
    then a stage that was killed and continued ends with the weights of one that was not.
    """

    total_steps: int

    @abstractmethod
    def step(self, step: int) -> dict[str, float]:
        """Do step `step`, counted from 1, optimizer included; what to log (names in `_seconds`: wall time).

        Raises:
            HealthError: a number is not finite; at every rank, as the ranks then put the failed batch together.
        """

    @abstractmethod
    def state(self) -> TaskState:
        """All that is needed to go on after the last step. In one process the tensors are the live ones, not copies; of
        many processes the leader's answer is the whole one, and every rank has to ask."""

    @abstractmethod
    def restore(self, state: TaskState) -> None:
        """Go on from a state that `state` returned."""

    def checkpoint_bytes(self) -> int:
        """Size of the state's tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state().tensors.values())

    def samples(self) -> list[dict[str, Any]]:
        """What a person may want to read of the last step, one JSON-able row each."""
        return []

    def failed_batch(self) -> list[Row]:
        """The rows that the last step read, with what the models made of them. Every rank has to ask."""
        return []

    def warnings(self) -> list[str]:
        """What the last step gives reason to warn about."""
        return []

    def has_news(self) -> bool:
        """Did the last step measure or find what is logged whatever `log.every_steps` says?"""
        return False

    def must_stop(self) -> str:
        """Why the config wants no further step after the last one, which may be a checkpoint's; "" = go on. The same at
        every rank."""
        return ""


class UpdaterTask(Task):
    """A task whose weights an updater trains, in one process or in many."""

    updater: Updater | DeepSpeedUpdater

    def state(self) -> TaskState:
        return TaskState(self.updater.tensors())

    def restore(self, state: TaskState) -> None:
        self.updater.restore(state.tensors)

    def checkpoint_bytes(self) -> int:
        return self.updater.state_bytes()


def run_steps(
    task: Task,
    *,
    out: Path,
    name: str,
    checkpoint: CheckpointConfig,
    log: LogConfig,
    reporter: Reporter,
    stop: StopSignal,
    events: EventLog,
    after_step: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Run `task` from its newest whole checkpoint in `out`, or from the start, to its last step.

    Writes metrics.jsonl, samples/ and checkpoints/ below `out`. The last step is saved too, so that a
    failure while the model is written afterwards costs no training.

    Args:
        after_step: called with every step's number before that step can be in a checkpoint; a killed
            stage may call it again for the same step.

    Returns:
        Metrics of the last step; empty when the task has no steps.

    Raises:
        Interrupted: a signal came; the step was finished and is in a checkpoint.
        HealthError: a number is not finite; the batch is in failed_step_NNNNNN.jsonl, and the last good checkpoint
            stands. Or an alarm that is to stop the stage was raised, now or before the newest checkpoint, which is of
            that step.
        ResourceError: the disk cannot hold two checkpoints.
    """
    ours = world()
    folder = out / "checkpoints"
    metrics_log = MetricsLog(out / "metrics.jsonl")
    done, metrics = _continue(task, folder, name, reporter, events)
    if ours.is_leader:
        metrics_log.cut_to(done)
        _check_space(task, out, name)
    if done and (alarm := task.must_stop()):
        raise _stopped(alarm, name, done, out)
    for step in range(done + 1, task.total_steps + 1):
        started = time.perf_counter()
        try:
            metrics = task.step(step)
            check_metrics(metrics)
        except HealthError as error:
            raise _failed(error, task.failed_batch(), name, step, out) from error
        seconds = time.perf_counter() - started
        is_last, alarm = step == task.total_steps, task.must_stop()
        if ours.is_leader and (step % log.every_steps == 0 or is_last or alarm or task.has_news()):
            metrics_log.append(step, {**metrics, "seconds": seconds})
            reporter.step(name, step, task.total_steps, metrics, seconds)
        if ours.is_leader and (step % log.samples_every_steps == 0 or is_last or alarm):
            _write_samples(task.samples()[: log.samples], out, step)
        for warning in task.warnings():
            reporter.warn(f"{name}, step {step}: {warning}")
            events.append("warned", stage=name, step=step, message=warning)
        if alarm:  # on record beside the warnings: the stage may go on later
            events.append("warned", stage=name, step=step, message=alarm)
        if after_step:
            after_step(step)
        # Read once: a signal that comes while saving waits for the next step. One rank's signal is everybody's.
        stopping = ours.largest(stop.signal_number)
        if step % checkpoint.every_steps == 0 or is_last or stopping or alarm:
            state = task.state()
            tensors = {**state.tensors, **checkpoints.random_states()}
            values = {"task": dict(state.values), "metrics": metrics}
            if ours.is_leader:
                metrics_log.sync()  # a power cut must not leave a checkpoint whose lines are lost
                checkpoints.save(folder, step, TaskState(tensors, values), keep=checkpoint.keep)
        if stopping:
            ours.barrier()  # whoever is ended by the launcher is not the one that saves
            stop.request(stopping)
            stop.check(f"{name}, after step {step} of {task.total_steps}; its checkpoint is saved")
        if alarm:
            ours.barrier()  # as above
            raise _stopped(alarm, name, step, out)
    return metrics


def _continue(
    task: Task, folder: Path, name: str, reporter: Reporter, events: EventLog
) -> tuple[int, dict[str, float]]:
    """Restore the newest good checkpoint: the step it was taken after (0 without one) and that step's metrics."""
    search = checkpoints.newest(folder) if world().is_leader else None
    newest = world().broadcast(search and search.found and search.found.step)
    if not world().is_leader:  # the leader has verified it
        search = Search(None, [])
        if newest is not None:
            search = Search(checkpoints.load(checkpoints.folder_of(folder, newest), verify=False), [])
    ignored = "".join(f"; {path} was ignored ({why})" for path, why in search.skipped)
    found = search.found
    if found is None:
        if ignored:
            _tell(f"{name}: starting at step 1 of {task.total_steps}{ignored}", 0, name, reporter, events)
        return 0, {}
    tensors = dict(found.state.tensors)
    checkpoints.restore_random_states(tensors)
    own = {key: tensor for key, tensor in tensors.items() if not key.startswith("random/")}
    task.restore(TaskState(own, found.state.values["task"]))
    at = found.saved.astimezone().strftime("%H:%M")
    text = f"{name}: continuing at step {found.step} of {task.total_steps} (checkpoint of {at}{ignored})"
    _tell(text, found.step, name, reporter, events)
    return found.step, found.state.values["metrics"]


def _tell(text: str, step: int, name: str, reporter: Reporter, events: EventLog) -> None:
    reporter.line(text)
    events.append("continued", stage=name, step=step, message=text)


def _check_space(task: Task, out: Path, name: str) -> None:
    """Two checkpoints must fit: the old one goes only when the new one is whole."""
    size = task.checkpoint_bytes()
    free = shutil.disk_usage(out).free
    if free < 2 * size:
        raise ResourceError(
            f"{name} needs {2 * size:,} bytes of disk for two checkpoints, and {free:,} are free",
            where=str(out),
            mend="free some space (rlp clean DIR --checkpoints), or move the run directory to a larger disk",
        )


def _write_samples(rows: list[dict[str, Any]], out: Path, step: int) -> None:
    if rows:
        path = out / "samples" / f"step_{step:06d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_text(path, "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows))


def _failed(error: HealthError, rows: list[Row], name: str, step: int, out: Path) -> HealthError:
    """The same error with the stage, the step, the rows, and what can be done. Writes the rows, at the leader."""
    bad = not_finite_in(rows)
    what = f"{name}, step {step}: {error.what}" + (f" (not finite: {bad})" if bad else "")
    path = out / "metrics.jsonl"
    if rows:
        path = failed_batch_path(out, step)
        if world().is_leader:
            write_failed_batch(rows, path)
        world().barrier()  # a rank that ends makes the launcher end the others, and the leader writes
    return HealthError(
        what,
        where=str(path),
        mend="look for what is odd in the rows of this step, or lower the learning rate (the stage then starts anew). "
        "The last good checkpoint, if there is one, stands, and running again as it is continues from it",
    )


def _stopped(alarm: str, name: str, step: int, out: Path) -> HealthError:
    return HealthError(
        f"{name} is stopped after step {step}: {alarm}",
        where=str(out / "samples"),
        mend="read the answers there. The checkpoint of this step is saved, and running again stops here again until "
        "the limit is raised or taken out of the list (--set 'ppo.health.stop=[]'); then it continues",
    )
