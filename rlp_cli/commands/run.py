"""`rlp run`: create a run and run it; the same again is resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlp_cli.options import DryRun, Preset, Sets, StageOptions, Yes
from rlp_cli.render import Output
from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    from rlp_engine.config.load import Resolved


def run(
    output: Output,
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
    sets: Sets = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Run every stage that is not done. The same command again resumes.

    rlp run --preset NAME [DIR] creates the run directory first. A stopped stage continues at its last
    whole step. A stage is named by its path (round-1/spg/ppo), by the end of it (refine-rm: in every branch)
    or by its folder (round-1/spg).
    """
    from rlp_cli.execution import run_stages
    from rlp_engine.stages.selection import Selection

    if run_dir is None:
        if not preset:
            raise typer.BadParameter("give a run directory, or --preset NAME to make one")
        run_dir = Path("runs") / preset
    methods = [name.strip() for name in method.split(",") if name.strip()]
    resolved, is_new = _resolved(output, run_dir, preset, sets or [], methods, dry_run=dry_run, yes=yes)
    selection = Selection(
        only=only or (), from_=from_ or (), until=until or (), force=force or (), methods=() if is_new else methods
    )
    run_stages(output, run_dir, resolved, selection, dry_run=dry_run, sets=[] if is_new else sets or [])


def _resolved(
    output: Output, run_dir: Path, preset: str, sets: list[str], methods: list[str], *, dry_run: bool, yes: bool
) -> tuple[Resolved, bool]:
    """(the config, whether the run is new)."""
    from rlp_cli.execution import with_changes
    from rlp_engine.config.load import create_run, load_preset

    if not preset or (run_dir / "run.toml").is_file():
        resolved = with_changes(output, run_dir, sets, dry_run=dry_run, yes=yes)
        if preset and resolved.config.preset != preset:
            raise ConfigError(
                f"{run_dir} is a run of preset '{resolved.config.preset}', not of '{preset}'",
                mend=f"rlp run --preset {preset} OTHER_DIR, or go on with this one: rlp run {run_dir}",
            )
        return resolved, False
    if methods:  # a run that has no other branches, rather than one that never runs them
        sets = [*sets, f"methods={','.join(methods)}"]
    if dry_run:
        return load_preset(preset, sets), True
    resolved = create_run(run_dir, preset, sets)
    output.say(f"created {run_dir}/run.toml from preset {preset}")
    return resolved, True
