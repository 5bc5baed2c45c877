"""`rlp metrics DIR STAGE`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from rlp_cli.options import RunDir
from rlp_cli.render import Output
from rlp_cli.text import number

WIDTH = 100  # characters of the table; --verbose, --json and --csv give all columns


def metrics(
    output: Output,
    run_dir: RunDir,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Such as ppo or round-1/spg/ppo.", show_default=False)],
    last: Annotated[int, typer.Option("--last", min=1, metavar="N", help="Show this many steps.")] = 20,
    samples: Annotated[bool, typer.Option("--samples", help="The answers that were saved last.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="All steps as CSV.")] = False,
) -> None:
    """Show what a training stage logged, also while it runs."""
    from rlp_cli.stages import load_pipeline, one_stage
    from rlp_engine.errors import ConfigError
    from rlp_engine.run.events import MetricsLog
    from rlp_engine.run.layout import METRICS_FILE, RunLayout

    if as_csv and (output.as_json or samples):
        raise typer.BadParameter("--csv does not go with --json or --samples")
    _, pipeline = load_pipeline(run_dir)
    name = one_stage(stage, pipeline).name
    layout = RunLayout(run_dir)

    def logged_in(name: str) -> Path | None:
        folders = (layout.partial(name), layout.stage(name))
        return next((folder for folder in folders if (folder / METRICS_FILE).is_file()), None)

    folder = logged_in(name)
    if folder is None:
        others = [spec.name for spec in pipeline if logged_in(spec.name)]
        mend = f"stages that have: {', '.join(others)}" if others else f"rlp status {run_dir} tells what has run"
        raise ConfigError(f"stage {name} has logged no metrics", where=str(layout.stage(name)), mend=mend)
    if samples:
        _show_samples(output, folder, name)
        return
    rows = MetricsLog(folder / METRICS_FILE).read()
    if as_csv:
        output.text(_csv(rows))
        return
    chosen = rows[-last:]
    keys = _telling_first(dict.fromkeys(key for row in chosen for key in row))
    cells = {key: [number(row.get(key)) for row in chosen] for key in keys}
    shown = keys if output.verbose else _that_fit(cells)
    output.table(shown, [list(row) for row in zip(*(cells[key] for key in shown), strict=True)])
    if len(shown) < len(keys):
        output.say(f"and {len(keys) - len(shown)} more: --verbose, --json or --csv", "dim")
    for key, row in _measured_before(rows, keys).items():
        output.say(f"{key} was {number(row[key])} when it was measured last, at step {number(row.get('step'))}", "dim")
    output.result({"stage": name, "steps": len(rows), "metrics": chosen})


def _telling_first(keys: Iterable[str]) -> list[str]:
    """What a step's line on the screen shows comes first, as what does not fit is left out."""
    from rlp_engine.run.reporting import HEADLINES

    first = ["step", *(key for group in HEADLINES for key in group)]
    known = {key: place for place, key in enumerate(first)}
    return sorted(keys, key=lambda key: known.get(key, len(known)))


def _measured_before(rows: list[dict[str, Any]], keys: list[str]) -> dict[str, dict[str, Any]]:
    """Metric that no shown row has -> the last row that has it. Some are measured every tenth step only."""
    return {key: row for row in rows for key in row if key not in keys}


def _that_fit(cells: dict[str, list[str]]) -> list[str]:
    """The first columns, as many as fit into WIDTH; never none."""
    shown, used = [], 0
    for key, column in cells.items():
        used += 3 + max(len(key), *map(len, column))
        if shown and used > WIDTH:
            break
        shown.append(key)
    return shown


def _csv(rows: list[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _show_samples(output: Output, folder: Path, name: str) -> None:
    from rlp_engine.errors import ConfigError
    from rlp_engine.run.events import read_lines

    files = sorted(folder.glob("samples/step_*.jsonl"))
    if not files:
        raise ConfigError(f"stage {name} has saved no answers", where=str(folder / "samples"), mend="ppo stages do")
    rows = list(read_lines(files[-1]))
    output.show(f"{name}, {files[-1].stem.replace('_', ' ')}", "head")
    for row in rows:
        numbers = "   ".join(f"{k} {number(v)}" for k, v in row.items() if isinstance(v, int | float))
        output.show(f"\n{row.get('instruction', row.get('prompt_id', ''))}", "head")
        if row.get("input"):
            output.show(str(row["input"]))
        output.show(_indented(row.get("response", json.dumps(row))))
        output.show(f"    {numbers}", "dim")
    output.result({"stage": name, "file": str(files[-1]), "samples": rows})


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in str(text).splitlines())
