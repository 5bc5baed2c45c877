"""`python -m benchmarks.speed COMMAND`; what the commands do stands in the package's docstring."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.speed import __doc__ as package_text
from benchmarks.speed.run import ROOT, Plan, measure_case, peers_python, write_lines
from benchmarks.speed.shapes import CPU_SIZES, PEERS, SHAPES, cases
from benchmarks.speed.startup import measure_startup
from benchmarks.speed.table import write_tables
from rlp_engine.errors import RlpError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=package_text)
DEFAULT_OUT, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "BENCHMARKS.md"
DEFAULT_SIZES = ",".join(CPU_SIZES)
Sizes = Annotated[str, typer.Option("--sizes", "--size", help=f"by commas, of {', '.join(SHAPES)}")]
Repeats = Annotated[int, typer.Option(min=1, help="pairs of measurements, ours and the peer's in turn")]
Device = Annotated[str, typer.Option(help="cpu, or cuda (bf16; meant for the sizes 1b and 7b)")]
Side = Annotated[str, typer.Option(help="both, ours or peer")]
Peers = Annotated[Path | None, typer.Option(help="Python of the peers' environment, if not .venv-peers")]
Out = Annotated[Path, typer.Option(help="folder of the results, speed-*.jsonl")]
Batch = Annotated[str | None, typer.Option(help="this batch size instead of a search for the best one")]


def run(
    benchmarks: list[str],
    sizes: str,
    repeats: int,
    device: str,
    side: str,
    peers: Path | None,
    out: Path,
    only: str = "",
    ours_batch: str | None = None,
    peer_batch: str | None = None,
) -> None:
    """Measure every case of these benchmarks; each case is on file when it is done."""
    chosen = _sizes(sizes)
    sides = {"both": ("ours", "peer"), "ours": ("ours",), "peer": ("peer",)}.get(side)
    if sides is None:
        raise typer.BadParameter(f"{side!r} is not both, ours or peer", param_hint="--side")
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is not cpu or cuda", param_hint="--device")
    chosen_cases = [case for name in benchmarks for case in cases(name, chosen) if only in case.name]
    if not chosen_cases:
        raise typer.BadParameter(f"no case of {', '.join(benchmarks)} at {sizes} holds {only!r}", param_hint="--only")
    other_library = "peer" in sides and benchmarks != ["clustering"]
    python = peers_python(peers) if other_library else Path(sys.executable)
    plan = Plan(python, repeats, device, sides, _batch(ours_batch), _batch(peer_batch))
    for case in chosen_cases:
        write_lines(out, case.benchmark, measure_case(case, plan, typer.echo))


def _sizes(text: str) -> tuple[str, ...]:
    sizes = tuple(part.strip() for part in text.split(","))
    unknown = [size for size in sizes if size not in SHAPES]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(SHAPES)}", param_hint="--sizes")
    return sizes


def _batch(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text


def _add_command(benchmark: str, text: str) -> None:
    @app.command(benchmark, help=text)
    def command(
        sizes: Sizes = DEFAULT_SIZES,
        repeats: Repeats = 3,
        device: Device = "cpu",
        side: Side = "both",
        peers: Peers = None,
        out: Out = DEFAULT_OUT,
        only: Annotated[str, typer.Option(help="cases whose name holds this: '32 prompts'")] = "",
        ours_batch: Batch = None,
        peer_batch: Batch = None,
    ) -> None:
        run([benchmark], sizes, repeats, device, side, peers, out, only, ours_batch, peer_batch)


_add_command("sampling", "10 answers a prompt, against transformers' generate. Batch = rows decoded side by side.")
_add_command("ppo", "PPO updates, against TRL's PPOTrainer. Batch = answers a forward pass.")
_add_command("reward", "Reward training, against TRL's RewardTrainer. Batch = pairs a forward pass.")
_add_command("sft", "Fine-tuning, against TRL's SFTTrainer. Batch = rows a forward pass; the peer's: 'MODE ROWS'.")

_add_command("clustering", "Clusters by entailment, against the naive walk. Batch = pairs a forward pass.")


@app.command()
def startup(
    repeats: Repeats = 3,
    peers: Peers = None,
    side: Side = "both",
    out: Out = DEFAULT_OUT,
    quickstart: Annotated[bool, typer.Option(help="also a whole `rlp run --preset quickstart`, minutes")] = True,
) -> None:
    """Help of every command, with `trl`'s for comparison, and what a run spends outside its stages."""
    python = peers_python(peers) if side == "both" else None
    write_lines(out, "startup", measure_startup(repeats, python, quickstart, typer.echo))


@app.command("all")
def everything(
    sizes: Sizes = DEFAULT_SIZES,
    repeats: Repeats = 3,
    device: Device = "cpu",
    peers: Peers = None,
    out: Out = DEFAULT_OUT,
) -> None:
    """Every benchmark, then the start-up."""
    run(list(PEERS), sizes, repeats, device, "both", peers, out)
    startup(repeats, peers, "both", out)


@app.command()
def table(out: Out = DEFAULT_OUT, page: Annotated[Path, typer.Option(help="the page to renew")] = PAGE) -> None:
    """Write the tables of the results into the page, between its markers."""
    write_tables(out, page)


if __name__ == "__main__":
    try:
        app()
    except RlpError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
