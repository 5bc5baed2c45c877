"""Run the stages that are due: lock, signals, log files, attempts, commits. Run again to continue."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlp_engine.config.notices import notices
from rlp_engine.config.rules import value_of
from rlp_engine.config.schema import RunConfig
from rlp_engine.distributed.rank import RankProcess, rank_process
from rlp_engine.distributed.world import world
from rlp_engine.errors import ConfigError, CorruptArtifactError, DataError, RlpError
from rlp_engine.run.adopt import adopt, find_same_work
from rlp_engine.run.atomic import remove_temporaries, temporary_name
from rlp_engine.run.attempt import FORCED, Attempt, complete, corrupt, finish_commit
from rlp_engine.run.events import EventLog
from rlp_engine.run.exit_reasons import LostRanksInWords
from rlp_engine.run.fingerprint import DigestCache
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.lock import RunLock
from rlp_engine.run.manifest import OTHER_CONTENT, current_versions
from rlp_engine.run.reporting import LogReporter, NullReporter, Reporter, TeeReporter
from rlp_engine.run.resources import ResourcesInWords, release_memory
from rlp_engine.run.signals import StopSignal
from rlp_engine.stages.group import Leader, leader
from rlp_engine.stages.plan import SAFE_KEYS, PlannedStage, plan_chosen, resolve
from rlp_engine.stages.selection import Chosen, Selection
from rlp_engine.stages.spec import ConfigView, StageContext, StageSpec, input_paths, is_remote

__all__ = ["Selection", "StageStatus", "execute"]

_NUMERIC_PACKAGES = ("torch", "transformers", "rlp")


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
        lock = stack.enter_context(RunLock(layout.lock))
        stop.before_exit(lock.abandon)
        number, log = stack.enter_context(_log_files(layout, rank))
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
        self._warn_of_other_versions(spec)
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
        self._check_made(spec)
        lower = memory_keys(self.config, spec)
        release_memory()  # what earlier stages of this process left
        reset_device_peak()
        lost = LostRanksInWords(None if self.group.is_alone else self.logs, 0)
        with attempt, ResourcesInWords(f"stage {name}", self.layout.run_dir, lower), lost:
            if attempt.kept_aside:
                aside = attempt.kept_aside.relative_to(self.layout.run_dir)
                self.reporter.line(f"{name}: unfinished work of before is kept in {aside}")
            events.append("started", will=stage.will, because=stage.because, fingerprint=stage.fingerprint)
            if attempt.notice:
                self.reporter.warn(f"{name}: {attempt.notice}")
            context = StageContext(
                spec=spec,
                run_dir=self.layout.run_dir,
                out=attempt.out,
                inputs=input_paths(self.layout, spec),
                config=ConfigView(self.config, spec.sections),
                events=events,
                reporter=self.reporter,
                stop=self.stop,
            )
            if spec.ranks == "all":
                self.group.start(name)
            summary = spec.load()(context)
            self.group.finish(self.reporter)
            self._check_sources(stage)
            self.lock.check()
            manifest = attempt.commit(
                summary,
                seed=self.config.seed,
                platform=_platform(self.config),
                log_patterns=spec.wall_time,
                peak_device_bytes=device_peak(),
            )
        seconds = time.monotonic() - started
        events.append("finished", seconds=round(seconds, 3), fingerprint=stage.fingerprint)
        self.reporter.stage_finished(name, seconds, manifest.summary)
        return StageStatus(name, "done", stage.will, stage.because, seconds, manifest.summary)

    def _check_made(self, spec: StageSpec) -> None:
        """Nothing is built on an output that is not what its stage made; the plan has looked at sizes only.

        Read are files whose size, times and inode are not those of when they were read last.
        """
        for item in spec.inputs:
            found = complete(self.layout, item.stage) if item.stage else None
            for name, record in found.manifest.below(item.path).items() if found else ():
                if self.digests.of(found.folder / name) != record.sha256:
                    raise corrupt(self.layout, item.stage, found.folder, [f"{name} {OTHER_CONTENT}"])

    def _check_sources(self, stage: PlannedStage) -> None:
        """A file that changed while the stage read it would be recorded under the digest of its old content."""
        for item in stage.spec.inputs:
            if item.stage or is_remote(item.path):
                continue
            try:
                digest = self.digests.of(Path(item.path).expanduser())
            except OSError:  # gone, but what the stage read is what was hashed
                continue
            if digest != stage.work.inputs[item.name].digest:
                raise DataError(
                    f"{item.path} changed while {stage.spec.name} read it",
                    where=str(Path(item.path).expanduser().absolute()),
                    mend="leave it as it is during the run, and run again",
                )

    def _warn_of_other_versions(self, spec: StageSpec) -> None:
        now = current_versions()
        for item in spec.inputs:
            found = complete(self.layout, item.stage) if item.stage else None
            then = found.manifest.versions if found else {}
            other = [
                f"{package} {then[package]} -> {now[package]}"
                for package in _NUMERIC_PACKAGES
                if package in then and package in now and then[package] != now[package]
            ]
            if other:
                self.reporter.warn(f"{item.stage} was made with other versions: {', '.join(other)}")
                self.events.append("other versions", stage=spec.name, input=item.stage, versions=other)
                return


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


@contextmanager
def _log_files(layout: RunLayout, rank: RankProcess | None) -> Iterator[tuple[int, LogReporter]]:
    """A new folder for this launch, or the one that its launcher's parent made, and `latest` pointing to it."""
    number = rank.attempt if rank and rank.attempt else layout.new_attempt()
    folder = layout.attempt_logs(number)
    if rank:
        rank.logs_are_in(folder)
    remove_temporaries(layout.logs)
    with suppress(OSError):  # only for people, and some file systems have no links
        latest = layout.logs / "latest"
        if latest.is_dir() and not latest.is_symlink():  # the run was copied by something that follows links
            latest.rename(layout.logs / f"latest-before-{number}")
        link = temporary_name(latest)
        link.symlink_to(folder.name)
        link.replace(latest)
    log = LogReporter(folder / "rank_0.log")
    try:
        yield number, log
    except BaseException as error:  # for whoever reads the file later; the error itself goes on
        text = str(error) if isinstance(error, RlpError) else traceback.format_exc()
        with suppress(OSError):
            log.line(f"ended: {text}")
        raise
    finally:
        with suppress(OSError):  # what a full disk did not take at the last line
            log.close()


def _platform(config: RunConfig) -> dict[str, Any]:
    """World size and device, without importing torch: a stage that used it has done so."""
    cuda, rank = _cuda_in_use(), rank_process()
    device = cuda.get_device_name() if cuda else "cpu"
    found = {"world_size": world().size, "device": device, "system": sys.platform}
    return found | ({"launcher": rank.place.started_by, "zero_stage": config.deepspeed.zero_stage} if rank else {})


def _cuda_in_use() -> Any | None:
    """torch.cuda if a stage of this process has used it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def reset_device_peak() -> None:
    """Start measuring the accelerator's memory anew; blocks that torch keeps for later go back to the driver."""
    if cuda := _cuda_in_use():
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()


def device_peak() -> int | None:
    """Most bytes of tensors on the accelerator since the last reset; None where none is used."""
    cuda = _cuda_in_use()
    return cuda.max_memory_allocated() if cuda else None
