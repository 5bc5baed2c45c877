"""`rlp score-pairs MODEL FILE`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlp_cli.render import Output
from rlp_cli.sources import Fields, Wheres, data_file
from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    from rlp_engine.config.sections.model import ComputeConfig, ModelConfig

MAX_LENGTH, MICROBATCH = 1024, 16


class Template(enum.StrEnum):
    """How a prompt becomes text."""

    alpaca = "alpaca"
    chat = "chat"
    plain = "plain"


def score_pairs(
    output: Output,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run directory, a model folder or a hub id.", show_default=False)
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Labelled pairs.", show_default=False)],
    name: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Of a run: train-rm, round-1/spg. Left out: the last.")
    ] = "",
    template: Annotated[
        Template | None,
        typer.Option("--template", help="How a prompt becomes text; a run has its own.", show_default="alpaca"),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=1, help="Tokens of a text.", show_default=str(MAX_LENGTH))
    ] = None,
    microbatch: Annotated[
        int | None, typer.Option("--microbatch", min=1, help="Texts per forward pass.", show_default=str(MICROBATCH))
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="So many pairs, drawn; 0 = all.")] = 0,
    field: Fields = None,
    where: Wheres = None,
) -> None:
    """Test a reward model on labelled pairs: accuracy by subset, calibration, length, whose answers it prefers."""
    from rlp_cli.reporter import ConsoleReporter
    from rlp_engine.data.readers import load_preferences

    source, own, compute, lengths = _resolve(output, model, name, template)
    pairs = load_preferences(
        data_file(file, field, where).model_copy(update={"limit": limit}), 0, table="", warn=output.warn
    )
    from rlp_engine.stages.score_pairs import score_pairs as score

    reporter = ConsoleReporter(output)
    found = score(
        source,
        pairs,
        model=own,
        compute=compute,
        microbatch=microbatch or lengths[0],
        max_length=max_length or lengths[1],
        progress=lambda done, total: reporter.progress("score-pairs", done, total, "pairs"),
    )
    output.stop_progress()
    _show(output, found)
    output.result({"model": str(source), "file": file, **found})


def _resolve(
    output: Output, model: str, name: str, template: Template | None
) -> tuple[Path | str, ModelConfig, ComputeConfig, tuple[int, int]]:
    """The model's folder or hub id, how to load it and on what, and (microbatch, tokens of a text)."""
    from rlp_engine.config.sections.model import ComputeConfig, ModelConfig

    if not (Path(model) / "run.toml").is_file():
        if name:
            raise ConfigError(f"{model} is no run directory, so it has no '{name}'", mend="leave out --model")
        own = ModelConfig(template=template.value if template else Template.alpaca.value)
        return model, own, ComputeConfig(), (MICROBATCH, MAX_LENGTH)
    from rlp_cli.execution import tell_code
    from rlp_cli.stages import load_pipeline
    from rlp_engine.run.layout import RunLayout
    from rlp_engine.run.verify import require_whole
    from rlp_engine.stages.branches import reward_models

    resolved, _ = load_pipeline(Path(model))
    config = resolved.config
    if template and template.value != config.model.template:
        raise ConfigError(
            f"the models of {model} were trained with the template '{config.model.template}'", mend="no --template"
        )
    layout, stages = RunLayout(Path(model)), reward_models(config)
    stages |= {stage: stage for stage in stages.values()}
    finished = [known for known, stage in stages.items() if (layout.stage(stage) / "model").is_dir()]
    if not finished:
        raise ConfigError("no reward model is finished yet", where=model, mend=f"rlp run {model}")
    chosen = name or finished[-1]
    if chosen not in finished:
        raise ConfigError(f"{model} has no finished reward model '{chosen}'", mend=f"it has: {', '.join(finished)}")
    require_whole(Path(model), stages[chosen])
    tell_code(output, config)
    settings = config.train_rm
    path = layout.stage(stages[chosen]) / "model"
    return path, config.model, config.compute, (settings.score_microbatch, settings.max_length)


def _show(output: Output, found: dict[str, Any]) -> None:
    rows = [("all", found["accuracy"]), *((row["subset"] or "(none)", row) for row in found["subsets"])]
    lengths = found["lengths"]
    rows += [("the longer is chosen", lengths["longer_chosen"]), ("the shorter is chosen", lengths["shorter_chosen"])]
    output.table(
        ["pairs", "accuracy %", "±", "n"],
        [[name, _percent(row["accuracy"]), _percent(row["standard_error"]), str(row["n"])] for name, row in rows],
    )
    if lengths["balanced"] is not None:
        output.show(f"  length-balanced accuracy {_percent(lengths['balanced'])} %")
    calibration = found["calibration"]
    output.show()
    output.table(
        ["confidence", "mean %", "right %", "n"],
        [
            [f"{b['low']:.2f} to {b['high']:.2f}", _percent(b["confidence"]), _percent(b["accuracy"]), str(b["n"])]
            for b in calibration["bins"]
        ],
    )
    error = _percent(calibration["expected_calibration_error"])
    output.show(f"  expected calibration error {error} %; loss {found['loss']:.3f} nats (0.693 says nothing)")
    correlation = found["length_correlation"]
    output.show()
    output.table(
        ["reward and length", "Pearson", "Spearman"],
        [
            ["all answers", _fixed(correlation["pearson"]), _fixed(correlation["spearman"])],
            ["within a prompt", _fixed(correlation["pearson_within"]), _fixed(correlation["spearman_within"])],
        ],
    )
    output.show(f"  the longer answer is preferred in {_percent(correlation['longer_preferred'])} % of the pairs")
    if found["generators"]:
        shares = ("preferred_by_model", "preferred_by_label", "accuracy")
        output.show()
        output.table(
            ["answers of", "preferred %", "by the label %", "accuracy %", "n"],
            [[row["generator"], *(_percent(row[key]) for key in shares), str(row["n"])] for row in found["generators"]],
        )
    if found["cut"]:
        output.warn(f"{found['cut']} of {2 * found['pairs']} texts are longer than {found['limit']} tokens and are cut")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
