"""`rlp clean DIR`: the only command that deletes."""

from __future__ import annotations

from typing import Annotated

import typer

from rlp_cli.asking import confirmed, this_command
from rlp_cli.options import DryRun, RunDir, Yes
from rlp_cli.render import Output
from rlp_cli.text import size


def clean(
    output: Output,
    run_dir: RunDir,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also those of unfinished stages, which then start from step 1.")
    ] = False,
    answers: Annotated[
        bool, typer.Option("--answers", help="Also the NLI model's answers, which synthesize then asks for again.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Delete what newer results replaced. Also left-over temporaries and, if asked, checkpoints and NLI answers."""
    from rlp_engine.config.load import require_run
    from rlp_engine.run.clean import removable, remove

    require_run(run_dir)
    items = removable(run_dir, checkpoints=checkpoints, answers=answers)
    total = sum(item.bytes for item in items)
    names = [str(item.path.relative_to(run_dir.absolute())) for item in items]
    listed = {
        "items": [{"path": n, "kind": i.kind, "bytes": i.bytes} for n, i in zip(names, items, strict=True)],
        "bytes": total,
    }
    if not items:
        output.show("nothing to delete")
        output.result({**listed, "deleted": False})
        return
    output.table(["what", "kind", "size"], [[n, i.kind, size(i.bytes)] for n, i in zip(names, items, strict=True)])
    if dry_run:
        output.show(f"Nothing was deleted. To free {size(total)}: {this_command()}")
        output.result({**listed, "deleted": False})
        return
    if not confirmed(output, f"delete {len(items)} items, {size(total)}?", yes=yes):
        raise typer.Abort()
    freed = remove(run_dir, items)
    output.show(f"deleted {len(items)} items, {size(freed)}", "good")
    output.result({**listed, "deleted": True})
