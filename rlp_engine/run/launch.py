"""Start a launcher for a run, and tell in `rlp`'s own words how it ended. The parent's side; no torch.

logs/attempt_3/launcher.log        what the launcher, and libraries on ranks other than 0, printed
logs/attempt_3/rank_1.log          what rank 1 did
logs/attempt_3/rank_1.exit.json    why it ended
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.distributed.launch_environment import LAUNCHER, free_port, launched_environment, num_gpus
from rlp_engine.distributed.launchers import LaunchRequest, command_line, hostfile_text, visible_devices
from rlp_engine.distributed.parent import ATTEMPT, PARENT, REASONS, Rank, Switchboard
from rlp_engine.distributed.supervise import MEETING_SECONDS, Ended, Watch, supervise
from rlp_engine.errors import ConfigError, Interrupted, LostRankError, ModelError, ResourceError, RlpError
from rlp_engine.run.atomic import remove_temporaries, write_whole
from rlp_engine.run.exit_reasons import ExitReason, first_cause, read_reasons
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.signals import WORDS, StopSignal
from rlp_engine.safe_text import clean, redact

LAST_LINES = 5  # of launcher.log, in an error that nothing else explains
LONGEST_LINE = 1 << 20  # characters of launcher.log that are read at a time


class RankBug(Exception):
    """A rank ended by an exception that nobody foresaw; `trace` is its traceback, with the rank's number."""

    def __init__(self, reason: ExitReason) -> None:
        super().__init__(f"rank {reason.rank}: {reason.what}")
        self.trace = reason.trace


@dataclass(frozen=True)
class Outcome:
    """How a launch ended. One of the two is set when it failed."""

    error: RlpError | None = None
    bug: RankBug | None = None


def check_request(request: LaunchRequest) -> None:
    """What can be seen before anything is started.

    Raises:
        ModelError: the launcher is not installed. ConfigError: too many ranks for the GPUs; no host file, no pdsh.
    """
    if importlib.util.find_spec("deepspeed") is None or importlib.util.find_spec(request.launcher) is None:
        raise ModelError(
            f"--launcher {request.launcher} needs the package deepspeed, which is not installed",
            where="command line",
            mend="pip install 'rlp[deepspeed]'",
        )
    gpus = num_gpus(os.environ)
    if gpus and request.nproc > gpus:
        raise ConfigError(
            f"--nproc {request.nproc}, and this machine shows {gpus} GPUs",
            where="command line",
            mend=f"--nproc {gpus}, or look at CUDA_VISIBLE_DEVICES",
        )
    if request.hostfile:
        _check_hostfile(request)


def _check_hostfile(request: LaunchRequest) -> None:
    if not Path(request.hostfile).is_file():
        raise ConfigError(f"no host file {request.hostfile}", where="--hostfile", mend="lines of: HOST slots=RANKS")
    for program in ("ssh", "pdsh"):
        if shutil.which(program) is None:
            raise ConfigError(
                f"--hostfile starts the other machines by {program}, which is not on PATH",
                mend=f"install {program}; or run the command on every machine with --nnodes, --node-rank and --master",
            )


def launch(
    request: LaunchRequest,
    run_dir: Path,
    words: Sequence[str],
    *,
    stop: StopSignal,
    said: Callable[[str], None],
    build: Callable[..., list[str]] = command_line,
) -> Outcome:
    """Run `rlp WORDS` in the ranks of a launcher, and wait until none of them is left.

    Args:
        words: a command line of `rlp` for this run, without launcher options: rank 0 obeys it, the others follow.
        stop: a first signal asks the ranks to stop at a safe point; a second one kills them.
        said: gets what the launcher prints, for --verbose; it is in launcher.log anyway.
        build: gives the launcher's command line; takes the arguments of `launchers.command_line`.
    """
    layout = RunLayout(run_dir)
    ranks_here = request.nproc or max(1, num_gpus(os.environ))
    environment = launched_environment(os.environ) | {LAUNCHER: request.launcher}
    short = None if len(tempfile.gettempdir()) < 80 else "/tmp"  # a socket's path may have 100 characters
    with tempfile.TemporaryDirectory(prefix="rlp-", dir=short) as name:
        folder = Path(name)
        stop.before_exit(lambda: shutil.rmtree(folder, ignore_errors=True))
        if request.node_rank == 0:
            number = layout.new_attempt()
            logs = layout.attempt_logs(number)
            environment[ATTEMPT] = str(number)
        else:  # only node 0 writes in the run directory
            logs = folder
        environment[REASONS] = str(logs)
        devices = visible_devices(environment, ranks_here) if num_gpus(environment) else {}
        command = build(
            request,
            words,
            ranks_here=ranks_here,
            own_port=free_port(),
            hostfile=_hostfile(request, ranks_here, folder),
            devices=devices,
        )
        board = Switchboard(folder)
        try:
            reasons = _Reasons(board, logs)
            watch = Watch(lambda: stop.signal_number, stop.before_exit, said, reasons.has_failure)
            ended = supervise(
                command,
                environment | devices | _passed_by_ssh(request, environment, board, folder),
                board=board,
                ranks_here=0 if request.hostfile else ranks_here,
                log=logs / "launcher.log",
                watch=watch,
            )
            return _outcome(ended, reasons, stop, logs / "launcher.log", layout)
        finally:
            board.close()
            _clean(logs / "launcher.log")
            if request.nnodes == 1 and not request.hostfile:  # else ranks elsewhere may still write why they end
                remove_temporaries(logs)  # of a rank that was killed while it wrote that


def _clean(log: Path) -> None:
    """Take out what would drive the terminal of its reader, and secrets. The ranks' Python writes none of either
    (rlp_cli/streams.py); the launcher, and libraries in C, write as they like."""
    if not log.exists():
        return

    def write(path: Path) -> None:
        with log.open(encoding="utf-8", errors="replace") as source, path.open("w", encoding="utf-8") as target:
            while part := source.readline(LONGEST_LINE):
                target.write(clean(redact(part)))

    with suppress(OSError):  # a full disk: the log stays as it is, and the launch has ended for a better reason
        write_whole(log, write)


def _hostfile(request: LaunchRequest, ranks_here: int, folder: Path) -> str:
    if request.hostfile or request.nnodes == 1 or request.launcher != "deepspeed":
        return request.hostfile
    path = folder / "hosts"
    path.write_text(hostfile_text(request.nnodes, ranks_here))
    return str(path)


def _passed_by_ssh(
    request: LaunchRequest, environment: Mapping[str, str], board: Switchboard, folder: Path
) -> dict[str, str]:
    """deepspeed gives ranks that it starts by ssh the variables of a file; the user's own file goes first."""
    if not request.hostfile:
        return {}
    names = (ATTEMPT, REASONS, LAUNCHER, "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "DS_ACCELERATOR", "NO_COLOR")
    lines = [f"{name}={environment[name]}" for name in names if name in environment]
    lines.append(f"{PARENT}={board.address}")
    own = environment.get("DS_ENV_FILE", ".deepspeed_env")
    texts = [path.read_text() for path in (Path.home() / own, Path(own)) if path.is_file()]
    path = folder / "environment"
    path.write_text("".join(f"{line}\n" for text in texts for line in text.splitlines()) + "\n".join(lines) + "\n")
    return {"DS_ENV_FILE": str(path)}


class _Reasons:
    """The exit reasons of a launch. A rank of this machine that left none is given one: others look for it."""

    def __init__(self, board: Switchboard, folder: Path) -> None:
        self._board = board
        self._folder = folder

    def folders(self) -> list[Path]:
        shared = self._board.reasons
        return [self._folder] if shared in (None, self._folder) else [self._folder, shared]

    def all(self) -> list[ExitReason]:
        found = {reason.rank: reason for folder in self.folders() for reason in read_reasons(folder)}
        found |= {reason.rank: reason for reason in (ExitReason(**words) for words in list(self._board.last_words))}
        return list(found.values())

    def has_failure(self) -> bool:
        """Has a rank failed, by its own word or by silence?"""
        reasons = self.all()
        silent = self._silent(reasons)
        for rank in silent:
            what = "was killed, or ended without a word"
            with suppress(OSError):  # a full disk: then the others notice by their connections
                ExitReason(rank.rank, 128 + signal.SIGKILL, "LostRankError", what, time=rank.ended).write(
                    self.folders()[-1]
                )
        return bool(silent) or any(reason.exit_code and reason.kind != "Interrupted" for reason in reasons)

    def _silent(self, reasons: Sequence[ExitReason]) -> list[Rank]:
        known = {reason.rank for reason in reasons}
        return [rank for rank in list(self._board.ranks.values()) if not rank.is_connected and rank.rank not in known]


def _outcome(ended: Ended, reasons: _Reasons, stop: StopSignal, log: Path, layout: RunLayout) -> Outcome:
    """The first cause, in the words of the rank that met it."""
    if stop.requested and not ended.had_met:
        what = f"stopped by {WORDS[stop.signal_number]} before the ranks had met"
        return Outcome(Interrupted(stop.signal_number, what, mend=f"to continue: rlp run {layout.shown}"))
    reasons.has_failure()  # so that a rank that ended last is known too
    found = reasons.all()
    cause = first_cause(found)
    if cause and cause.kind == "LostRankError":
        return Outcome(_killed(cause, ended, layout, log))
    if cause and cause.is_bug:
        return Outcome(bug=RankBug(cause))
    if cause:
        return Outcome(cause.error())
    if any(reason.rank == 0 and reason.exit_code == 0 for reason in found):
        return Outcome()  # rank 0 has done all; what a launcher says of its own end is of no matter then
    if ended.launcher_code == 0 and found:  # this machine's ranks ended well; node 0 tells the rest
        return Outcome()
    if ended.too_late:
        return Outcome(_not_met(log))
    if found:
        return Outcome(found[0].error())
    if ended.launcher_code < 0:
        what = f"the launcher was killed{_by_signal(-ended.launcher_code)} before a rank had begun"
        mend = f"to continue: rlp run {layout.shown}"
        return Outcome(LostRankError(what, exit_code=128 - ended.launcher_code, where=str(log), mend=mend))
    return Outcome(
        ModelError(
            f"the launcher ended with code {ended.launcher_code} before a rank had begun",
            where=str(log) if log.parent.parent == layout.logs else "launcher",
            found=" / ".join(_last_lines(log)),
            mend="see why with --verbose",
        )
    )


def _killed(cause: ExitReason, ended: Ended, layout: RunLayout, log: Path) -> RlpError:
    """A rank that left no word."""
    number = ended.killed_by
    how = _by_signal(number)
    what = f"rank {cause.rank} was killed{how}" if how else f"rank {cause.rank} ended without a word"
    mend = f"to continue: rlp run {layout.shown}"
    if ended.out_of_memory and number in (0, signal.SIGKILL):
        return ResourceError(
            f"out of memory: {what}",
            where=f"{socket.gethostname()}: the kernel counted a kill for memory meanwhile",
            mend="fewer ranks, smaller microbatches or a larger zero_stage; then run again: it continues",
        )
    hint = "out of memory? The machine's log (dmesg) tells; " if number in (0, signal.SIGKILL) else ""
    code = 128 + (number or signal.SIGKILL)
    return LostRankError(what, exit_code=code, where=str(log), mend=hint + mend)


def _by_signal(number: int) -> str:
    """ "" for what is no signal's number."""
    return f" by signal {number} ({signal.Signals(number).name})" if number in set(signal.Signals) else ""


def _not_met(log: Path) -> RlpError:
    return ConfigError(
        f"the ranks have not met in {MEETING_SECONDS / 60:.0f} minutes",
        where="--master, --nnodes and --node-rank",
        found=" / ".join(_last_lines(log)),
        mend="start the same command on every machine, each with its --node-rank; the port of --master must be open",
    )


def _last_lines(log: Path) -> list[str]:
    if not log.exists():
        return []
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line for line in lines if line][-LAST_LINES:]
