"""Run the stages that are due: lock, signals, log files, attempts, commits. Run again to continue."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlp_engine.config.notices import notices
from rlp_engine.config.schema import RunConfig, value_of
from rlp_engine.distributed.rank import rank_process
from rlp_engine.distributed.world import world
from rlp_engine.errors import ConfigError, CorruptArtifactError, DataError
from rlp_engine.run.accelerator import device_peak, reset_device_peak
from rlp_engine.run.adopt import adopt, find_same_work
from rlp_engine.run.attempt import FORCED, Attempt, complete, finish_commit
from rlp_engine.run.events import EventLog
from rlp_engine.run.exit_reasons import LostRanksInWords
from rlp_engine.run.fingerprint import DigestCache
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.lock import RunLock
from rlp_engine.run.lock_owner import Watch
from rlp_engine.run.log_files import log_files
from rlp_engine.run.reporting import NullReporter, Reporter, TeeReporter
from rlp_engine.run.resources import ResourcesInWords, release_memory
from rlp_engine.run.signals import StopSignal
from rlp_engine.stages.group import Leader, leader
from rlp_engine.stages.input_checks import check_made, check_sources, other_versions
from rlp_engine.stages.plan import SAFE_KEYS, PlannedStage, plan_chosen, resolve
from rlp_engine.stages.selection import Chosen, Selection
from rlp_engine.stages.spec import ConfigView, StageContext, StageSpec, input_paths


@dataclass(frozen=True)
class StageStatus:
    """How a stage stands after the run."""

    name: str
    status: str  # as in PlannedStage
    did: str  # skip, run, continue, start again
    because: str
    seconds: float = 0.0
    summary: Mapping[str, Any] = field(default_factory=dict)


def execute(
    run_dir: Path,
    pipeline: Sequence[StageSpec],
    config: RunConfig,
    selection: Selection | None = None,
    reporter: Reporter | None = None,
    adopt_from: Sequence[Path] = (),
) -> list[StageStatus]:
    """Run every selected stage that is due, in order; a run in which nothing is due writes nothing.

    Under a launcher rank 0 calls this, inside `group.Leading`; the others call `group.follow`.

    Args:
        adopt_from: other runs. A due stage that one of them has finished with the same fingerprint is linked
            from there instead of being computed again (run/adopt.py).

    Returns:
        A status for each stage of the pipeline.

    Raises:
        ConfigError: the selection fits no stage, or an input cannot be had; before anything has run.
        CorruptArtifactError: an artifact that would be read is not what its stage.json says.
        RunLockedError: another process works on the run.
        Interrupted: SIGINT or SIGTERM came, and the stage stopped at a point it can continue from.
        ResourceError: out of memory or disk. And whatever a stage's function raises.
        LostRankError: another rank has failed, or is gone.
    """
    layout = RunLayout(run_dir)
    reporter = reporter or NullReporter()
    if not layout.run_dir.is_dir():
        raise ConfigError(
            "there is no such run", where=str(layout.run_dir), mend="rlp presets; rlp init DIR --preset NAME"
        )
    digests = DigestCache(layout.digests)
    chosen = resolve(layout.run_dir, pipeline, config, selection, digests=digests)
    planned = plan_chosen(layout.run_dir, pipeline, config, chosen, digests=digests)
    _refuse(planned)
    if not any(stage.is_due for stage in planned):
        return [_untouched(stage) for stage in planned]
    rank, group = rank_process(), leader()
    with ResourcesInWords("the run directory", layout.run_dir), ExitStack() as stack:
        stop = stack.enter_context(group.stop_signal(layout))
        watch = Watch(told=reporter.line, meanwhile=lambda: stop.check("before the lock"))
        lock = stack.enter_context(RunLock(layout.lock, watch))
        stop.before_exit(lock.abandon)
        number, log = stack.enter_context(log_files(layout, rank))
        reporter = group.hears(TeeReporter(reporter, log))
        logs = layout.attempt_logs(number)
        stack.enter_context(LostRanksInWords(None if group.is_alone else logs, 0))
        group.meet(logs, config)
        session = _Session(
            layout=layout,
            pipeline=pipeline,
            config=config,
            reporter=reporter,
            events=EventLog(layout.events, launch=number),
            lock=lock,
            stop=stop,
            digests=digests,
            adopt_from=tuple(adopt_from),
            group=group,
            logs=logs,
        )
        session.tell({stage.spec.kind for stage in planned if stage.is_due})
        return session.run(chosen)


@dataclass(frozen=True)
class _Session:
    """One launch that holds the lock."""

    layout: RunLayout
    pipeline: Sequence[StageSpec]
    config: RunConfig
    reporter: Reporter
    events: EventLog
    lock: RunLock
    stop: StopSignal
    digests: DigestCache
    adopt_from: tuple[Path, ...]
    group: Leader
    logs: Path  # of this launch

    def tell(self, kinds: set[str]) -> None:
        """What the config lets strangers do in stages of these kinds: on the screen, in the log, and on record."""
        for notice in notices(self.config, kinds):
            (self.reporter.warn if notice.is_warning else self.reporter.line)(notice.text)
            self.events.append("warned" if notice.is_warning else "noted", message=notice.text)

    def run(self, chosen: Chosen) -> list[StageStatus]:
        if self.lock.taken_over:
            owner = str(self.lock.taken_over)
            self.reporter.line(f"the lock of a process that is gone was taken over ({owner})")
            self.events.append("lock taken over", owner=owner)
        for spec in self.pipeline:
            if _is_half_committed(self.layout, spec.name):
                finish_commit(self.layout, spec.name, self.events)
                self.events.append("commit finished", stage=spec.name)
        results: dict[str, StageStatus] = {}
        while True:  # what a stage made decides what the next ones have to do
            planned = plan_chosen(self.layout.run_dir, self.pipeline, self.config, chosen, digests=self.digests)
            self.digests.save()
            _refuse(planned)
            due = next((stage for stage in planned if stage.is_due), None)
            if due is None:
                break
            name = due.spec.name
            if name in results:
                raise DataError(
                    f"{name} is done, and due again already: {due.because}",
                    where=str(self.layout.run_dir),
                    mend="leave what the run reads as it is, and run again",
                )
            self.lock.check()
            self.group.agree_to_stop(self.stop)
            self.stop.check(f"before {name}")
            is_forced = name in chosen.forced
            adopted = None if is_forced else self._adopt(due)
            results[name] = adopted or self._run_stage(due, is_forced=is_forced)
            chosen = chosen.without_force(name)
        return [results.get(stage.spec.name, _untouched(stage)) for stage in planned]

    def _adopt(self, stage: PlannedStage) -> StageStatus | None:
        """Take the stage from a run that has done the same work; None if there is none, or not whole.

        Unfinished work of the same fingerprint goes on where it is: it is ours, and some of it is done.
        """
        name = stage.spec.name
        if stage.will not in ("run", "start again"):
            return None
        found = find_same_work(name, stage.fingerprint, self.adopt_from)
        if found is None:
            return None
        other, source = found
        started = time.monotonic()
        try:
            manifest = adopt(self.layout, name, other, source, self.events)
        except (CorruptArtifactError, FileNotFoundError) as error:  # damaged, or replaced while we read it
            self.reporter.warn(f"{name} of {other.run_dir} cannot be used, so it is made again: {error}")
            self.events.append("not adopted", stage=name, source=str(other.run_dir), message=str(error))
            return None
        self.reporter.line(f"{name}: adopted from {manifest.adopted_from}")
        return StageStatus(name, "done", "adopt", stage.because, time.monotonic() - started, manifest.summary)

    def _run_stage(self, stage: PlannedStage, *, is_forced: bool) -> StageStatus:
        spec, name = stage.spec, stage.spec.name
        events = self.events.bound(stage=name)
        for note in stage.notes:
            self.reporter.warn(note)
        if other := other_versions(self.layout, spec):
            source, versions = other
            self.reporter.warn(f"{source} was made with other versions: {', '.join(versions)}")
            self.events.append("other versions", stage=name, input=source, versions=versions)
        self.reporter.stage_started(name, stage.will, stage.because)
        started = time.monotonic()
        attempt = Attempt(
            self.layout,
            name,
            stage.work,
            stage.fingerprint,
            reason=FORCED if is_forced else stage.because,
            restart=is_forced,
            events=self.events,
            world_size=world().size,
        )
        check_made(self.layout, self.digests, spec)
        lower = memory_keys(self.config, spec)
        release_memory()  # what earlier stages of this process left
        reset_device_peak()
        lost = LostRanksInWords(None if self.group.is_alone else self.logs, 0)
        with attempt, ResourcesInWords(f"stage {name}", self.layout.run_dir, lower), lost:
            if attempt.kept_aside:
                aside = attempt.kept_aside.relative_to(self.layout.run_dir)
                self.reporter.line(f"{name}: unfinished work of before is kept in {aside}")
            events.append("started", will=stage.will, because=stage.because, fingerprint=stage.fingerprint)
            self._warn_of(name, attempt.notices)
            context = StageContext(
                spec=spec,
                run_dir=self.layout.run_dir,
                out=attempt.out,
                inputs=input_paths(self.layout, spec),
                config=ConfigView(self.config, spec.sections),
                events=events,
                reporter=self.reporter,
                stop=self.stop,
                on_device=lambda device: self._warn_of(name, attempt.computes_on(device)),
            )
            if spec.ranks == "all":
                self.group.start(name, lower)
            summary = spec.load()(context)
            self.group.finish(self.reporter)
            check_sources(self.digests, stage)
            self.lock.check()
            manifest = attempt.commit(
                summary,
                seed=self.config.seed,
                platform=_platform(self.config, attempt.device),
                log_patterns=spec.wall_time,
                peak_device_bytes=device_peak(),
            )
        seconds = time.monotonic() - started
        events.append("finished", seconds=round(seconds, 3), fingerprint=stage.fingerprint)
        self.reporter.stage_finished(name, seconds, manifest.summary)
        return StageStatus(name, "done", stage.will, stage.because, seconds, manifest.summary)

    def _warn_of(self, name: str, notices: Sequence[str]) -> None:
        for notice in notices:
            self.reporter.warn(f"{name}: {notice}")


def memory_keys(config: RunConfig, spec: StageSpec) -> list[str]:
    """Config keys of this stage that take less memory when they are lower, with their values.

    Only safe ones: a lower value goes on with the work that is there. Those of the stage's own section come first.
    """
    ways, own = ("microbatch", "score_microbatch", "rows"), spec.kind.replace("-", "_")
    ordered = sorted(SAFE_KEYS, key=lambda key: (not key.startswith(f"{own}."), key))
    keys = (key for key in ordered if key.rpartition(".")[2] in ways)
    read = (key for key in keys if any(f"{key}.".startswith(f"{section}.") for section in spec.sections))
    return [f"{key} (now {value_of(config, key)})" for key in read if value_of(config, key) > 1]


def _refuse(planned: Sequence[PlannedStage]) -> None:
    """Before hours of work, not after."""
    for stage in planned:
        if stage.refusal and stage.is_due:
            raise stage.refusal


def _is_half_committed(layout: RunLayout, name: str) -> bool:
    try:
        found = complete(layout, name)
        return found is not None and found.is_half_committed
    except CorruptArtifactError:  # the plan refuses it, or a forced attempt replaces it
        return False


def _untouched(stage: PlannedStage) -> StageStatus:
    return StageStatus(stage.spec.name, stage.status, "skip", stage.because)


def _platform(config: RunConfig, device: str) -> dict[str, Any]:
    """Where a stage ran; `device` is "" if it asked for none."""
    rank = rank_process()
    found = {"world_size": world().size, "device": device or "cpu", "system": sys.platform}
    return found | ({"launcher": rank.place.started_by, "zero_stage": config.deepspeed.zero_stage} if rank else {})
