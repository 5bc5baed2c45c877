"""`rlp export DIR --model policy|reward --to PATH`."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlp_cli.options import RunDir
from rlp_cli.render import Output
from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    from rlp_engine.stages.spec import StageSpec


class Model(enum.StrEnum):
    """What is exported."""

    policy = "policy"
    reward = "reward"


class Dtype(enum.StrEnum):
    """Of the exported weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


KINDS = {Model.policy: ("ppo", "sft"), Model.reward: ("refine-rm", "train-rm")}


def export(
    output: Output,
    run_dir: RunDir,
    model: Annotated[Model, typer.Option("--model", help="Which model.", show_default=False)],
    to: Annotated[
        Path, typer.Option("--to", metavar="PATH", help="A folder that is not there yet.", show_default=False)
    ],
    stage: Annotated[
        str, typer.Option("--stage", metavar="STAGE", help="The stage that made it. Left out: the last.")
    ] = "",
    dtype: Annotated[Dtype | None, typer.Option("--dtype", help="Left out: as saved.", show_default=False)] = None,
) -> None:
    """Copy a model out of the run. Adapters are merged; the copy is read back and its answers compared."""
    from rlp_cli.execution import tell_code
    from rlp_cli.stages import load_pipeline
    from rlp_engine.run.layout import RunLayout

    resolved, pipeline = load_pipeline(run_dir)
    if to.exists():  # before anything heavy is imported
        raise ConfigError(f"{to} is there already", mend="choose a new folder with --to")
    name = _choose(pipeline, run_dir, model, stage)
    from rlp_engine.run.verify import require_whole

    require_whole(run_dir, name)
    from rlp_engine.stages.export import export_model

    tell_code(output, resolved.config)
    source = RunLayout(run_dir).stage(name) / "model"
    trusted = resolved.config.model.trust_remote_code
    made = export_model(source, to, kind=model.value, dtype=dtype.value if dtype else "", trust_remote_code=trusted)
    output.show(f"{model.value} of {name}: {made['parameters']:,} parameters, {made['dtype']} -> {made['path']}")
    output.result({"stage": name, **made})


def _choose(pipeline: Sequence[StageSpec], run_dir: Path, model: Model, stage: str) -> str:
    """The named stage, or the last finished one of the right kind, if only one branch has it."""
    from rlp_cli.stages import one_stage
    from rlp_engine.run.layout import RunLayout

    kinds = KINDS[model]
    layout = RunLayout(run_dir)
    finished = [s for s in pipeline if s.kind in kinds and (layout.stage(s.name) / "model").is_dir()]
    names = [spec.name for spec in finished]
    if stage:
        spec = one_stage(stage, pipeline)
        if spec.name not in names:
            raise ConfigError(f"{spec.name} has no {model.value}", mend=f"finished ones: {', '.join(names) or 'none'}")
        return spec.name
    if not finished:
        raise ConfigError(f"no {model.value} is finished yet", mend=f"rlp run {run_dir}")
    depth = max(_round(spec.name) for spec in finished)
    last = [spec.name for spec in finished if _round(spec.name) == depth]
    if depth and len(last) > 1:
        raise ConfigError(f"{len(last)} branches have a {model.value}", mend=f"--stage one of: {', '.join(last)}")
    return last[-1]


def _round(name: str) -> int:
    from rlp_engine.stages.selection import round_of

    return round_of(name)
