"""`rlp config show | check | diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlp_cli.options import Preset, Sets
from rlp_cli.render import Output
from rlp_cli.text import toml_value

if TYPE_CHECKING:
    from rlp_engine.config.load import Resolved

OptionalDir = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="The run directory; or give --preset.", show_default=False)
]
Match = Annotated[str, typer.Option("--key", metavar="TEXT", help="Only keys that contain this.")]


def show(output: Output, run_dir: OptionalDir = None, preset: Preset = "", sets: Sets = None, key: Match = "") -> None:
    """Show every key: value, source, meaning. Then how the batch words divide."""
    from rlp_engine.config.describe import batch_arithmetic, describe
    from rlp_engine.config.notices import notices

    resolved = _load(run_dir, preset, sets or [], check_files=False)
    rows = [row for row in describe(resolved) if key in row.key]
    found = notices(resolved.config)
    marked = {key for notice in found for key in notice.keys}
    for row in rows:
        style = "warning" if row.key in marked else "" if row.source == "default" else "head"
        output.show(f"{row.key} = {toml_value(row.value)}   ({row.source}){' (!)' if row.key in marked else ''}", style)
        output.show(f"    {row.description}{'; safe: makes nothing stale' if row.safe else ''}", "dim")
    arithmetic = batch_arithmetic(resolved.config)
    if not key:
        output.show()
        output.show("batches (all sizes count samples)", "head")
        for line in arithmetic:
            output.show(f"  {line}")
    if found:
        output.show()
        output.show("(!) before you run what somebody else wrote", "head")
        for notice in found:
            output.show(f"  {notice.text}", "warning" if notice.is_warning else "")
    output.result(
        {
            "keys": {
                row.key: {"value": row.value, "source": row.source, "description": row.description, "safe": row.safe}
                for row in rows
            },
            "batches": arithmetic,
            "notices": [notice.text for notice in found],
        }
    )


def check(output: Output, run_dir: OptionalDir = None, preset: Preset = "", sets: Sets = None) -> None:
    """Report every problem of a config at once, missing files too."""
    from rlp_cli.execution import require_all, tell_notices
    from rlp_engine.stages.pipeline import build_pipeline

    resolved = _load(run_dir, preset, sets or [], check_files=True)
    pipeline = build_pipeline(resolved.config)
    require_all(resolved, pipeline, where=str(run_dir or f"preset {preset}"))
    told = tell_notices(output, resolved.config)
    output.show(f"the config is sound: {len(pipeline)} stages", "good")
    output.result({"sound": True, "stages": [spec.name for spec in pipeline], "notices": told})


def diff(
    output: Output,
    left: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    right: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
) -> None:
    """Show the keys in which two runs differ."""
    from rlp_engine.config.describe import differences
    from rlp_engine.config.load import load_run

    found = differences(load_run(left, check_files=False), load_run(right, check_files=False))
    if found:
        output.table(["key", str(left), str(right)], [[key, toml_value(a), toml_value(b)] for key, a, b in found])
    else:
        output.show("no key differs")
    output.result({"differences": {key: [a, b] for key, a, b in found}})


def _load(run_dir: Path | None, preset: str, sets: list[str], *, check_files: bool) -> Resolved:
    from rlp_engine.config.load import load_preset, load_run

    if (run_dir is None) == (not preset):
        raise typer.BadParameter("give either a run directory or --preset NAME")
    if run_dir is None:
        return load_preset(preset, sets, check_files=check_files)
    return load_run(run_dir, sets, check_files=check_files)
