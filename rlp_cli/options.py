"""Option types that commands share, and the four words that every command takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from rlp_cli.render import Output

Function = Callable[..., None]


def _preset_names(incomplete: str) -> list[str]:
    from rlp_engine.config.presets import list_presets  # light: no pydantic

    return [name for name in list_presets() if name.startswith(incomplete)]


def _stage_names(incomplete: str) -> list[str]:
    kinds = ("prepare", "sft", "collect", "train-rm", "ppo", "evaluate", "round-1/sample", "round-1/embed")
    return [kind for kind in kinds if kind.startswith(incomplete)]


RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of run.toml; may be given often.", show_default=False),
]
Preset = Annotated[
    str,
    typer.Option("--preset", metavar="NAME", help="What to start from; see rlp presets.", autocompletion=_preset_names),
]


def StageOptions(name: str, help_text: str) -> Any:
    """A type for an option that names stages and may be given often."""
    option = typer.Option(name, metavar="STAGE", help=help_text, show_default=False, autocompletion=_stage_names)
    return Annotated[list[str] | None, option]


Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and show the plan; write nothing.")]

_EVERYWHERE = {
    "json": Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer, warnings and errors.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="More detail; tracebacks.")],
    "no_color": Annotated[bool, typer.Option("--no-color", help="No colour (also: NO_COLOR=1).")],
}


def with_output(function: Function) -> Function:
    """Add --json, --quiet, --verbose and --no-color to a command, which gets an `Output` as its first argument."""
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _EVERYWHERE.items()
    ]

    @wraps(function)
    def command(**values: Any) -> None:
        words = {name: values.pop(name) for name in _EVERYWHERE}
        output = Output(
            as_json=words["json"], quiet=words["quiet"], verbose=words["verbose"], color=not words["no_color"]
        )
        try:
            function(output, **values)
        except KeyboardInterrupt:  # outside of the runner, which has its own handler; typer would say nothing
            output.warn("stopped by Ctrl-C")
            raise typer.Exit(130) from None
        finally:
            output.stop_progress()

    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    command.__signature__ = signature.replace(parameters=[*own, *extra])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *extra]}
    del command.__wrapped__  # type: ignore[attr-defined]  typer would follow it to the bare signature
    return command
