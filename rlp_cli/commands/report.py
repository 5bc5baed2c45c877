"""`rlp report DIR`."""

from __future__ import annotations

from typing import Annotated

import typer

from rlp_cli.options import RunDir
from rlp_cli.render import Output


def report(
    output: Output,
    run_dir: RunDir,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write report.html. One page with curves, drift, clusters, pairs, win-rates and sampled texts."""
    from rlp_cli.results import write_report
    from rlp_engine.config.load import require_run

    require_run(run_dir)
    path = write_report(run_dir)
    output.show(str(path))
    output.result({"report": str(path)})
    if open_it:
        typer.launch(path.as_uri())
