"""`rlp run`: create a run and run it; the same again is resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlp_cli.launching import Part, take_part, with_launcher
from rlp_cli.options import DryRun, Preset, Sets, StageOptions, Yes
from rlp_cli.render import Output
from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    from rlp_engine.config.load import Resolved

    Write = Callable[[], object]


@with_launcher
def run(
    output: Output,
    launch: dict[str, Any],
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="The run directory; with --preset runs/NAME if left out.", show_default=False
        ),
    ] = None,
    preset: Preset = "",
    only: StageOptions("--only", "Run only this stage.") = None,
    from_: StageOptions("--from", "Run this stage and what depends on it.") = None,
    until: StageOptions("--until", "Run this stage and what it needs.") = None,
    force: StageOptions("--force", "Run this stage even if it is done; the old outputs are kept aside.") = None,
    method: Annotated[str, typer.Option("--method", metavar="M,M", help="Only the branches of these methods.")] = "",
    adopt_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--adopt-from",
            metavar="DIR",
            help="Another run: stages that it has finished with the same fingerprint are linked from there.",
            show_default=False,
        ),
    ] = None,
    sets: Sets = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Run every stage that is not done. The same command again resumes.

    rlp run --preset NAME [DIR] creates the run directory first. A stopped stage continues at its last
    whole step. A stage is named by its path (round-1/spg/ppo), by the end of it (refine-rm: in every branch)
    or by its folder (round-1/spg).
    """
    if run_dir is None:
        if not preset:
            raise typer.BadParameter("give a run directory, or --preset NAME to make one")
        run_dir = Path("runs") / preset
    options = {"--only": only, "--from": from_, "--until": until, "--force": force, "--adopt-from": adopt_from}
    given = [(name, str(value)) for name, values in options.items() for value in values or []]
    given += [("--method", method)] if method else []

    def lead(part: Part) -> None:
        from rlp_cli.execution import run_stages
        from rlp_engine.config.load import require_run
        from rlp_engine.stages.selection import Selection

        methods = [name.strip() for name in method.split(",") if name.strip()]
        selection = Selection(only=only or (), from_=from_ or (), until=until or (), force=force or (), methods=methods)
        if not preset or (run_dir / "run.toml").is_file():
            resolved, write = _existing(output, run_dir, preset, sets or [], dry_run=dry_run, yes=yes)
        else:
            selection = replace(selection, methods=())
            # A run that has no other branches, rather than one that never runs them.
            keys = [*(sets or []), *([f"methods={','.join(methods)}"] if methods else [])]
            resolved, write = _new(output, run_dir, preset, keys)
        for other in adopt_from or []:
            require_run(other)
        words = ["run", str(run_dir), *(word for pair in given for word in pair)]
        run_stages(
            output,
            run_dir,
            resolved,
            selection,
            dry_run=dry_run,
            write=write,
            adopt_from=adopt_from or [],
            part=part,
            words=words,
        )

    take_part(output, run_dir, launch, lead)


def _existing(
    output: Output, run_dir: Path, preset: str, sets: list[str], *, dry_run: bool, yes: bool
) -> tuple[Resolved, Write | None]:
    """The run's config, and what writes it."""
    from rlp_cli.execution import with_changes
    from rlp_engine.config.load import load_run, set_values

    if preset and (made_from := load_run(run_dir, check_files=False).config.preset) != preset:
        raise ConfigError(
            f"{run_dir} is a run of preset '{made_from}', not of '{preset}'",
            mend=f"rlp run --preset {preset} OTHER_DIR, or go on with this one: rlp run {run_dir}",
        )
    resolved = with_changes(output, run_dir, sets, dry_run=dry_run, yes=yes)
    return resolved, partial(set_values, run_dir, sets, refuse_missing=False) if sets else None


def _new(output: Output, run_dir: Path, preset: str, sets: list[str]) -> tuple[Resolved, Write]:
    """The config that the run will have, and what creates it."""
    from rlp_engine.config.load import create_run, load_preset, require_new

    resolved = load_preset(preset, sets, refuse_missing=False)
    require_new(run_dir)

    def write() -> None:
        create_run(run_dir, preset, sets, refuse_missing=False)
        output.say(f"created {run_dir}/run.toml from preset {preset}")

    return resolved, write
