"""`rlp sft DIR` and its like: the stages of one kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from rlp_cli.launching import Part, take_part, with_launcher
from rlp_cli.options import DryRun, RunDir, Sets, Yes
from rlp_cli.render import Output

KINDS = {
    "prepare": "Read and check all data.",
    "sft": "Demonstrations -> SFT policy.",
    "collect": "SFT policy and annotator, or a file -> preference pairs.",
    "train-rm": "Preference pairs -> reward model.",
    "ppo": "SFT policy and a reward model -> policy.",
    "sample": "Policy and instructions -> n answers each.",
    "embed": "Samples -> rewards, hidden states, drift.",
    "synthesize": "Samples -> clusters, confidence, synthetic pairs (SPG).",
    "refine-rm": "Pairs and samples -> refined reward model.",
    "evaluate": "Policies and reward models -> win-rates, accuracies.",
}


def command_for(kind: str) -> Callable[..., None]:
    """The function of one command."""

    @with_launcher
    def command(
        output: Output,
        launch: dict[str, Any],
        run_dir: RunDir,
        round_number: Annotated[
            int | None,
            typer.Option("--round", min=0, metavar="K", help="0 = before refinement. Left out: the next one due."),
        ] = None,
        method: Annotated[str, typer.Option("--method", metavar="M,M", help="Only these branches.")] = "",
        force: Annotated[bool, typer.Option("--force", help="Even if done; the old outputs are kept aside.")] = False,
        sets: Sets = None,
        dry_run: DryRun = False,
        yes: Yes = False,
    ) -> None:
        def lead(part: Part) -> None:
            from rlp_cli.execution import run_stages, with_changes
            from rlp_engine.config.load import set_values
            from rlp_engine.stages.selection import Selection

            resolved = with_changes(output, run_dir, sets or [], dry_run=dry_run, yes=yes)
            selection = Selection(
                kinds=(kind,),
                rounds=() if round_number is None else (round_number,),
                methods=[name.strip() for name in method.split(",") if name.strip()],
                force=(f"*{kind}*",) if force else (),
            )
            write = partial(set_values, run_dir, sets, refuse_missing=False) if sets else None
            words = [kind, str(run_dir), *([] if round_number is None else ["--round", str(round_number)])]
            words += [*(["--method", method] if method else []), *(["--force"] if force else [])]
            run_stages(output, run_dir, resolved, selection, dry_run=dry_run, write=write, part=part, words=words)

        take_part(output, run_dir, launch, lead)

    command.__doc__ = KINDS[kind] + "\n\nThe same as rlp run DIR for this stage alone."
    command.__name__ = kind.replace("-", "_")
    return command
