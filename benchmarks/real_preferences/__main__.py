"""`python -m benchmarks.real_preferences COMMAND`; what the commands do stands in the package's docstring."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.real_preferences import report as reporting
from benchmarks.real_preferences.arms import CONTROLS, REFINED
from benchmarks.real_preferences.data import World, development_world, read_world
from benchmarks.real_preferences.study import Study, load_states, read_seed, run_seed, write_seed
from benchmarks.real_preferences.training import Settings
from rlp_engine.errors import RlpError

ROOT = Path(__file__).resolve().parents[2]
LEARNING_RATES, LAMBDAS, SYNTHETIC_WEIGHTS = (1e-4, 3e-4, 1e-3), (0.1, 0.5), (1.0, 4.0)
STUDY_ARMS = ("uml", "spg", "judged")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
DataFolder = Annotated[Path, typer.Option("--data", help="the shared data")]
Cache = Annotated[Path, typer.Option(help="where the states of the texts are kept (about 1 GB)")]
Out = Annotated[Path, typer.Option(help="where results are written")]
Limit = Annotated[int | None, typer.Option(help="only so many instructions: a quick trial")]
DEFAULT_DATA, DEFAULT_CACHE = ROOT.parent / "shared" / "data", ROOT / "runs" / "real_preferences" / "cache"
DEFAULT_OUT = ROOT / "runs" / "real_preferences"


@app.command()
def design(data: DataFolder = DEFAULT_DATA, limit: Limit = None, out: Out = DEFAULT_OUT) -> None:
    """Print the counts of the design, and the smallest difference it sees if `dev` has been run."""
    world = read_world(data, limit)
    typer.echo(reporting.design_table(world))
    folder = _rate_folder(out, Settings.learning_rate)
    if folder.is_dir():
        typer.echo(reporting.smallest_difference(world, development_world(world), folder))


@app.command()
def embed(data: DataFolder = DEFAULT_DATA, cache: Cache = DEFAULT_CACHE, limit: Limit = None) -> None:
    """Compute the frozen layers' states of every text and the vectors for clustering, once."""
    world = read_world(data, limit)
    for own in (world, development_world(world)):
        _study(own, cache)


@app.command()
def dev(
    data: DataFolder = DEFAULT_DATA,
    cache: Cache = DEFAULT_CACHE,
    out: Out = DEFAULT_OUT,
    grid: Annotated[str, typer.Option(help="learning-rate or refinement")] = "learning-rate",
    seeds: Annotated[str, typer.Option(help="development seeds, by commas")] = "1000",
) -> None:
    """Choose settings on generators of D alone; no pair of the unseen generators is read."""
    study = _study(development_world(read_world(data)), cache)
    rotations = [int(seed) for seed in seeds.split(",")]
    if grid == "learning-rate":
        scores = {rate: _try_rate(study, rotations, rate, out) for rate in LEARNING_RATES}
        typer.echo(f"best learning rate: {max(scores, key=scores.__getitem__):g}")
        return
    names = [*(f"uml@lambda={value:g}" for value in LAMBDAS), *(f"spg@weight={value:g}" for value in SYNTHETIC_WEIGHTS)]
    for rotation in rotations:
        records, margins = run_seed(study, rotation, Settings(), names)
        _print_development(records, f"seed {rotation}")
        write_seed(out / "development" / "refinement", rotation, records, margins, Settings())


@app.command()
def run(
    data: DataFolder = DEFAULT_DATA,
    cache: Cache = DEFAULT_CACHE,
    out: Out = DEFAULT_OUT,
    seeds: Annotated[str, typer.Option(help="seeds, by commas")] = "0,1,2,3,4",
    arms: Annotated[str, typer.Option(help=f"arms, by commas: {', '.join(REFINED)}")] = ",".join(STUDY_ARMS),
    limit: Limit = None,
    pairs: Annotated[int, typer.Option(help="pairs of D a seed")] = Settings.num_pairs,
    epochs: Annotated[int, typer.Option(help="passes over D")] = Settings.epochs,
    learning_rate: Annotated[float, typer.Option(help="of the top layer and the head")] = Settings.learning_rate,
) -> None:
    """Train and test every arm for every seed; an arm whose results are there is left alone."""
    study = _study(read_world(data, limit), cache)
    settings = Settings(num_pairs=pairs, epochs=epochs, learning_rate=learning_rate)
    for rotation in map(int, seeds.split(",")):
        records, margins = run_seed(study, rotation, settings, arms.split(","), read_seed(out, rotation))
        write_seed(out, rotation, records, margins, settings)
        typer.echo(f"seed {rotation}: done")


@app.command()
def report(
    data: DataFolder = DEFAULT_DATA,
    out: Out = DEFAULT_OUT,
    limit: Limit = None,
    results: Annotated[Path, typer.Option(help="JSON lines of all numbers")] = DEFAULT_OUT / "results.jsonl",
    draws: Annotated[int, typer.Option(help="bootstrap resamples")] = reporting.BOOTSTRAP_DRAWS,
) -> None:
    """Tables (markdown, to the terminal and tables.md) and one JSON line a number from the seeds that are there."""
    tables, lines = reporting.report(read_world(data, limit), out, draws)
    (out / "tables.md").write_text(tables, encoding="utf-8")
    results.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    typer.echo(tables)


def _try_rate(study: Study, rotations: list[int], rate: float, out: Path) -> float:
    """Mean length-balanced accuracy of `first` and `reseed` with a learning rate, on development pairs."""
    scores, settings = [], Settings(learning_rate=rate)
    for rotation in rotations:
        records, margins = run_seed(study, rotation, settings, [])
        write_seed(_rate_folder(out, rate), rotation, records, margins, settings)
        _print_development(records, f"seed {rotation}, learning rate {rate:g}")
        own = [r for r in records if r["kind"] == "accuracy" and r["arm"] in CONTROLS]
        scores += [record["length_balanced"] for record in own]
    return sum(scores) / len(scores)


def _rate_folder(out: Path, rate: float) -> Path:
    return out / "development" / f"learning-rate-{rate:g}"


def _study(world: World, cache: Path) -> Study:
    return Study.load(world, load_states(world, cache), cache)


def _print_development(records: list[dict], title: str) -> None:
    rows = [record for record in records if record["kind"] == "accuracy"]
    for arm, own in itertools.groupby(rows, key=lambda record: record["arm"]):
        parts = ", ".join(f"{r['part']} {r['length_balanced']:.3f} (all {r['accuracy']:.3f})" for r in own)
        typer.echo(f"{title}: {arm}: {parts}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        app()
    except RlpError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
