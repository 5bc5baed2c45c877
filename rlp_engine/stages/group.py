"""The ranks of a launch as one: rank 0 leads through the stages, the others follow.

    meet     the leader says which launch this is; every rank sees that it has the same run directory
    stage    the leader names a stage of `ranks = "all"`; every rank runs the stage's function; then all wait
    end      nothing more to do

A stage of `ranks = "leader"` is run by rank 0, while the others wait for the next word. Only the leader plans,
locks, commits and reports; a follower writes its log, its exit reason, and what the stage's own code gives to it.
In a world of one process all of this is nothing.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlp_engine.config.schema import RunConfig
from rlp_engine.distributed.rank import rank_process
from rlp_engine.distributed.world import World
from rlp_engine.errors import ConfigError
from rlp_engine.run.atomic import write_text
from rlp_engine.run.events import SilentEvents
from rlp_engine.run.exit_reasons import LostRanksInWords
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.reporting import LogReporter, Reporter
from rlp_engine.run.resources import ResourcesInWords, release_memory
from rlp_engine.run.signals import StopSignal
from rlp_engine.stages.spec import ConfigView, StageContext, StageSpec, input_paths

TOKEN_FILE = "meeting"  # in the launch's folder of logs: what every rank must be able to read
ECHO_SECONDS = 2.0  # between a terminal's Ctrl-C and the same from the launcher
TOKEN_SECONDS = 15.0  # network file systems show a new file late


@dataclass
class Leader:
    """Rank 0's side. `is_together`: the followers are inside a stage, and hear no words."""

    world: World
    is_together: bool = False
    _warned: list[str] = field(default_factory=list)

    @property
    def is_alone(self) -> bool:
        return self.world.size == 1

    def meet(self, folder: Path, config: RunConfig) -> None:
        """Give the others the config and this launch's folder of logs.

        Raises:
            ConfigError: a rank does not see this run directory.
        """
        if self.is_alone:
            return
        token = secrets.token_hex(16)
        write_text(folder / TOKEN_FILE, token)
        self.world.broadcast({"do": "meet", "logs": folder.name, "token": token, "config": config.model_dump_json()})
        problems = [problem for problem in self.world.gather("") if problem]
        (folder / TOKEN_FILE).unlink()
        if problems:
            raise ConfigError(
                "the run directory is not the same on every machine",
                where="; ".join(problems),
                mend="put the run on a disk that all machines share, and give each the path that it has there",
            )

    def stop_signal(self, layout: RunLayout) -> StopSignal:
        """For rank 0, which alone says that it has heard a signal; a parent has said so already."""
        rank = rank_process()
        return _stop_signal(layout, announce=rank is None or not rank.has_parent)

    def agree_to_stop(self, stop: StopSignal) -> None:
        """Before a stage: if any rank was asked to stop, all are. The followers wait for a word meanwhile."""
        if self.is_alone:
            return
        self.world.broadcast({"do": "agree"})
        _agree(self.world, stop)

    def start(self, name: str, lower: Sequence[str] = ()) -> None:
        """All ranks enter this stage. `lower`: the config keys that take less memory when they are lower."""
        if not self.is_alone:
            self.world.broadcast({"do": "stage", "name": name, "lower": list(lower)})
            self.is_together = True

    def finish(self, reporter: Reporter) -> None:
        """Wait until all have left the stage, and tell of what they warned of."""
        if self.is_together:
            warnings = self.world.gather([])
            self.is_together = False
            seen = set(self._warned)
            for rank, texts in enumerate(warnings):
                for text in texts:
                    if text not in seen:  # most often every rank warns of the same
                        seen.add(text)
                        reporter.warn(f"rank {rank}: {text}")

    def hears(self, reporter: Reporter) -> Reporter:
        """The same reporter; what it warns of is not repeated for other ranks."""
        return reporter if self.is_alone else _Listening(reporter, self._warned)

    def end(self) -> None:
        """Let the followers go, if they can hear it."""
        if not self.is_alone and not self.is_together:
            self.world.broadcast({"do": "end"})


class _Listening:
    """Notes the warnings on their way to a reporter."""

    def __init__(self, reporter: Reporter, warned: list[str]) -> None:
        self._reporter = reporter
        self._warned = warned

    def warn(self, text: str) -> None:
        self._warned.append(text)
        self._reporter.warn(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter, name)


class Leading:
    """A `with` block around all that rank 0 does. However it ends, the followers are let go."""

    def __init__(self, world: World) -> None:
        self.leader = Leader(world)

    def __enter__(self) -> Leader:
        global _leader
        _leader = self.leader
        return self.leader

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        global _leader
        _leader = Leader(World())
        if error is None:
            self.leader.end()
        else:  # what ended us may be that the others have gone
            with suppress(RuntimeError):
                self.leader.end()


_leader = Leader(World())


def leader() -> Leader:
    """Of this process; alone unless it is in a `Leading` block."""
    return _leader


def follow(run_dir: Path, world: World, build: Callable[[RunConfig], Sequence[StageSpec]]) -> None:
    """Do what rank 0 says until it says `end`. For every other rank.

    Args:
        run_dir: as this machine calls it.
        build: the pipeline of a config; the same as rank 0's.

    Raises:
        Interrupted: the ranks agreed to stop. LostRankError: another rank has gone. What a stage's function raises;
        ResourceError where that is for want of memory or disk.
    """
    layout = RunLayout(run_dir)
    rank = rank_process()
    with _stop_signal(layout, announce=False) as stop:
        with LostRanksInWords(rank.reasons if rank else None, world.rank):
            message = world.broadcast()
        if message["do"] == "meet":
            folder = layout.logs / message["logs"]
            problem = _token_problem(folder / TOKEN_FILE, message["token"])
            world.gather(f"rank {world.rank} on {socket.gethostname()}: {problem}" if problem else "")
            if not problem:
                if rank:
                    rank.logs_are_in(folder)
                config = RunConfig.model_validate_json(message["config"])
                with LostRanksInWords(folder, world.rank):
                    _Follower(layout, world, config, {spec.name: spec for spec in build(config)}, stop, folder).work()
                return
            world.broadcast()  # the leader's `end`


@dataclass(frozen=True)
class _Follower:
    """A rank that has met the leader."""

    layout: RunLayout
    world: World
    config: RunConfig
    pipeline: Mapping[str, StageSpec]
    stop: StopSignal
    folder: Path

    def work(self) -> None:
        path = self.folder / f"rank_{self.world.rank}.log"
        _print_into(path)
        log = LogReporter(path)
        reporter = _FollowerReporter(log)
        try:
            while (message := self.world.broadcast())["do"] != "end":
                if message["do"] == "agree":
                    _agree(self.world, self.stop)
                else:
                    with ResourcesInWords(f"stage {message['name']}", self.layout.run_dir, message["lower"]):
                        self._run(self.pipeline[message["name"]], reporter)
        finally:
            log.close()

    def _run(self, spec: StageSpec, reporter: _FollowerReporter) -> None:
        reporter.line(f"{spec.name}: rank {self.world.rank} of {self.world.size}")
        context = StageContext(
            spec=spec,
            run_dir=self.layout.run_dir,
            out=self.layout.partial(spec.name),
            inputs=input_paths(self.layout, spec),
            config=ConfigView(self.config, spec.sections),
            events=SilentEvents(self.layout.events),
            reporter=reporter,
            stop=self.stop,
        )
        release_memory()  # what earlier stages left
        spec.load()(context)
        self.world.gather(reporter.take_warnings())


class _FollowerReporter:
    """To the rank's log; warnings are kept for the leader too."""

    def __init__(self, log: LogReporter) -> None:
        self._log = log
        self._warnings: list[str] = []

    def warn(self, text: str) -> None:
        self._warnings.append(text)
        self._log.warn(text)

    def take_warnings(self) -> list[str]:
        taken, self._warnings = self._warnings, []
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def _stop_signal(layout: RunLayout, *, announce: bool) -> StopSignal:
    """For signals, and for a parent's word."""
    rank = rank_process()
    stop = StopSignal(
        f"to continue: rlp run {layout.shown}", announce=announce, echo_seconds=ECHO_SECONDS if rank else 0.0
    )
    if rank and rank.parent:
        rank.parent.on_stop(stop.request)
    return stop


def _agree(world: World, stop: StopSignal) -> None:
    """Every rank's stop signal becomes the ranks' largest. `stop.check` then says so."""
    number = world.largest(stop.signal_number)
    if number and not stop.requested:
        stop.request(number)


def _token_problem(path: Path, token: str) -> str:
    """ "" if this rank reads what the leader wrote."""
    deadline = time.monotonic() + TOKEN_SECONDS
    while True:
        try:
            return "" if path.read_text() == token else f"{path} is of another launch"
        except FileNotFoundError:
            if time.monotonic() > deadline:
                return f"{path} is not there"
        except OSError as error:
            return f"{path}: {error.strerror}"
        time.sleep(0.2)


def _print_into(path: Path) -> None:
    """What libraries print on this rank goes to its log."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
