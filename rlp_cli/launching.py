"""The launcher options of `rlp run` and of the commands of single stages, and who does what under them.

one process     as ever
parent          --launcher deepspeed|accelerate: check, write run.toml, start the launcher, show how it ended
rank 0          a launcher started us: the command as in one process, with the other ranks behind it
another rank    follows rank 0; prints nothing
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlp_cli.render import Output

if TYPE_CHECKING:
    from rlp_engine.config.schema import RunConfig
    from rlp_engine.distributed.launch_environment import Place
    from rlp_engine.distributed.launchers import LaunchRequest
    from rlp_engine.distributed.rank import RankProcess
    from rlp_engine.stages.spec import StageSpec

    Build = Callable[[RunConfig], Sequence[StageSpec]]

_OPTIONS = {
    "launcher": (
        Annotated[
            str,
            typer.Option(
                "--launcher",
                metavar="none|deepspeed|accelerate",
                help="Start several processes that train on DeepSpeed's engine. Under torchrun or srun leave it out.",
                show_default=False,
            ),
        ],
        "",
    ),
    "nproc": (
        Annotated[
            int,
            typer.Option(
                "--nproc", metavar="N", min=0, help="Processes on each machine; 0 = one a GPU.", show_default=False
            ),
        ],
        0,
    ),
    "nnodes": (
        Annotated[
            int, typer.Option("--nnodes", metavar="N", min=1, help="Machines; run the same command on each, no ssh.")
        ],
        1,
    ),
    "node_rank": (
        Annotated[int, typer.Option("--node-rank", metavar="K", min=0, help="Which of them this is, from 0.")],
        0,
    ),
    "master": (
        Annotated[
            str,
            typer.Option("--master", metavar="HOST:PORT", help="Machine 0, as the others reach it, and a free port."),
        ],
        "",
    ),
    "hostfile": (
        Annotated[
            str,
            typer.Option(
                "--hostfile", metavar="FILE", help="deepspeed's: start the machines it names, by pdsh and ssh."
            ),
        ],
        "",
    ),
}


@dataclass(frozen=True)
class Part:
    """This process's part in a launch; what `execution.run_stages` asks."""

    request: LaunchRequest | None = None  # a parent's
    place: Place | None = None  # a rank's
    has_parent: bool = False

    @property
    def says_the_end(self) -> bool:
        """Show results and errors? A parent does it for its ranks."""
        return not self.has_parent


ONE_PROCESS = Part()


def with_launcher(function: Callable[..., None]) -> Callable[..., None]:
    """Add the launcher options to a command, which gets the values as `launch`, a dictionary."""
    signature = inspect.signature(function, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "launch"]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]

    @wraps(function)
    def command(output: Output, **values: Any) -> None:
        launch = {name: values.pop(name) for name in _OPTIONS}
        function(output, launch=launch, **values)

    command.__signature__ = signature.replace(parameters=[*own, *extra])  # type: ignore[attr-defined]
    del command.__wrapped__  # type: ignore[attr-defined]
    return command


def take_part(output: Output, run_dir: Path, launch: dict[str, Any], lead: Callable[[Part], None]) -> None:
    """Find out what this process is, and do its part.

    Args:
        launch: the values of the launcher options.
        lead: the command itself, for one process, for a parent, and for rank 0.
    """
    nothing_said = launch == {name: default for name, (_, default) in _OPTIONS.items()}
    if nothing_said and not _may_be_rank(os.environ):
        lead(ONE_PROCESS)
        return
    from rlp_engine.distributed.launch_environment import find_place
    from rlp_engine.distributed.launchers import LaunchRequest

    request = LaunchRequest(**launch)
    place = None if request.launcher == "none" else find_place(os.environ)
    if place and (place.has_launcher_of_python or not request.spawns):
        as_rank(run_dir, place, lead)
    elif not request.spawns:
        lead(ONE_PROCESS)
    else:
        from rlp_engine.run.launch import check_request

        check_request(request)
        part = Part(request=request)
        if request.node_rank == 0:
            lead(part)
        else:
            start(output, part, run_dir, ["run", str(run_dir)])


def _may_be_rank(environment: os._Environ[str]) -> bool:
    return any(name in environment for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"))


def start(output: Output, part: Part, run_dir: Path, words: Sequence[str]) -> None:
    """As a parent: run the words in ranks, and end as they ended.

    Raises:
        RlpError: of the rank that failed first. typer.Exit: it was a bug, which has been told.
    """
    from rlp_engine.run.launch import launch
    from rlp_engine.run.layout import RunLayout
    from rlp_engine.run.signals import StopSignal

    assert part.request is not None
    output.say(f"starting {_in_words(part.request)}")
    said = output.traceback if output.verbose else lambda text: None
    with StopSignal(f"to continue: rlp run {RunLayout(run_dir).shown}") as stop:
        outcome = launch(part.request, run_dir, [*words, *output.words()], stop=stop, said=said)
    output.restore_cursor()
    if outcome.error:
        raise outcome.error
    if outcome.bug:
        output.bug(str(outcome.bug), outcome.bug.trace)
        raise typer.Exit(1)


def _in_words(request: LaunchRequest) -> str:
    where = f" on machine {request.node_rank} of {request.nnodes}" if request.nnodes > 1 else ""
    where = f" on the machines of {request.hostfile}" if request.hostfile else where
    number = f"{request.nproc} " if request.nproc else ""
    return f"{number}{'rank' if request.nproc == 1 else 'ranks'} with {request.launcher}{where}"


def as_rank(run_dir: Path, place: Place, lead: Callable[[Part], None], build: Build | None = None) -> None:
    """Join the others, and lead or follow.

    Args:
        build: the pipeline of a config, for followers; by default `build_pipeline`.

    Raises:
        typer.Exit: with the rank's exit code, where somebody else tells of the error. Else what `lead` raises.
    """
    from rlp_engine.distributed.rank import become_rank, meet
    from rlp_engine.stages.group import Leading, follow
    from rlp_engine.stages.pipeline import build_pipeline

    rank = become_rank(place)
    with _ExitNote(rank) as note:
        world = meet(rank)
        if world.is_leader:
            with Leading(world):
                lead(Part(place=place, has_parent=rank.has_parent))
        else:
            follow(run_dir, world, build or build_pipeline)
    if note.exit_code:
        raise typer.Exit(note.exit_code)


class _ExitNote:
    """Leave this rank's exit reason. With a parent, or as a follower, that is all that is said of an error here."""

    def __init__(self, rank: RankProcess) -> None:
        self._rank = rank
        self.exit_code = 0

    def __enter__(self) -> _ExitNote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        from rlp_engine.distributed.world import leave
        from rlp_engine.run.exit_reasons import reason_of

        if kind is typer.Exit:
            error = SystemExit(error.exit_code)
        reason = reason_of(self._rank.place.rank, error)
        if self._rank.reasons:
            with suppress(OSError):  # a full disk, most likely the reason itself
                reason.write(self._rank.reasons)
        if self._rank.parent:
            self._rank.parent.ended(asdict(reason))
        with suppress(RuntimeError):  # the others may be gone; without it torch aborts at the end of the process
            leave()
        # An agreed stop is an orderly end: launchers kill the ranks that are left when one ends with another code.
        is_quiet = self._rank.has_parent or (self._rank.place.rank > 0 and self._rank.reasons is not None)
        self.exit_code = 0 if reason.kind == "Interrupted" and is_quiet else reason.exit_code
        return error is None or is_quiet
