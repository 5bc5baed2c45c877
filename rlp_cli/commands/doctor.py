"""`rlp doctor [DIR | --preset NAME]`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlp_cli.options import Preset, Sets
from rlp_cli.render import Output
from rlp_cli.text import size, toml_value
from rlp_engine.errors import ResourceError

if TYPE_CHECKING:
    from rlp_engine.config.load import Resolved
    from rlp_engine.doctor.report import Diagnosis

SHOWN_SAVINGS = 4
_LOADED = ("model.path", "sft.ready_model", "train_rm.base_model", "collect.annotator.path", "evaluate.judge.path")


def doctor(
    output: Output,
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The run directory; or give --preset.", show_default=False)
    ] = None,
    preset: Preset = "",
    sets: Sets = None,
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="COUNTxNAME-SIZEG", help="GPUs to reckon with, such as 8xA100-80G.")
    ] = "",
) -> None:
    """Estimate memory and time of every stage before anything is loaded, and whether it fits; exit 6 if not.

    With several GPUs the numbers are those of one of as many ranks, under [deepspeed]'s ZeRO stage.
    """
    from rlp_cli.execution import tell_code
    from rlp_engine.doctor.machine import parse_gpus
    from rlp_engine.doctor.report import examine
    from rlp_engine.stages.pipeline import build_pipeline

    named = parse_gpus(gpus) if gpus else None
    if gpus and named is None:
        raise typer.BadParameter(f"--gpus takes COUNTxNAME-SIZEG, such as 8xA100-80G or H200-141G, not '{gpus}'")
    resolved = _load(run_dir, preset, sets or [])
    for key, error in resolved.missing.items():
        if key in _LOADED:
            raise error
    tell_code(output, resolved.config)
    output.say("measuring what the libraries take ...", "dim")
    found = examine(resolved.config, build_pipeline(resolved.config), run_dir, named)
    _show(output, found)
    for error in resolved.missing.values():
        output.warn(f"{error.what}\n{error.mend}")
    for note in found.notes:
        output.warn(note)
    output.result(_object(found))
    _verdict(found, run_dir)


def _load(run_dir: Path | None, preset: str, sets: list[str]) -> Resolved:
    from rlp_engine.config.load import load_preset, load_run

    if (run_dir is None) == (not preset):
        raise typer.BadParameter("give either a run directory or --preset NAME")
    if run_dir is None:
        return load_preset(preset, sets, refuse_missing=False)
    return load_run(run_dir, sets, refuse_missing=False)


def _show(output: Output, found: Diagnosis) -> None:
    rows = []
    for stage in found.stages:
        kinds = [size(stage.of_kind(kind)) for kind in ("weights", "training", "working")]
        needed = [size(found.needed(stage)), _yes(found.stage_fits(stage)), _time(found.seconds[stage.stage])]
        rows.append([stage.stage, stage.phase, size(stage.base), *kinds, *needed])
    head = ["stage", "at its peak", "libraries", "weights", "gradients, AdamW", "activations, cache"]
    output.table([*head, f"needs ({'each GPU' if found.gpus else 'RAM'})", "fits", "time"], rows)
    _show_roles(output, found)
    largest = found.largest
    output.show()
    output.show(f"{largest.stage} needs most, when it is at `{largest.phase}`:", "head")
    parts = [(part.name + (", on the host" if part.kind == "host" else ""), part.bytes) for part in largest.parts]
    parts += [] if found.gpus else [("libraries", largest.base)]
    output.table(["", "takes"], [[name, size(amount)] for name, amount in sorted(parts, key=lambda part: -part[1])])
    output.show()
    output.show(f"{_place(found)}: {_free(found.free)}; the run needs {size(found.needed(largest))}")
    output.show(f"disk: {size(found.disk_free)} free; models and checkpoints need about {size(found.disk_needed)}")
    if found.basis:
        open_ = sum(seconds is None for seconds in found.seconds.values())
        rest = f", and {open_} stages whose time is not known" if open_ else ""
        output.show(f"time: about {_time(found.total_seconds)} for the whole run{rest}")
        output.say(f"Times are arithmetic, not measured: {found.basis}. Ranks' talk is not counted.", "dim")
    versions = ", ".join(f"{name} {found.versions[name]}" for name in ("python", "torch", "transformers"))
    output.say(f"{versions}; {'' if found.gpus else 'no GPU is used'}".rstrip("; "), "dim")
    output.say("Sizes at the config's limits: every prompt and answer as long as it may be.", "dim")


def _show_roles(output: Output, found: Diagnosis) -> None:
    """Which model takes how much: weights, gradients and AdamW, of one rank. Stages of one kind are alike."""
    of_kind = {stage.kind: stage for stage in reversed(found.stages) if stage.roles}
    stages = [stage for stage in found.stages if of_kind.get(stage.kind) is stage]
    roles = list(dict.fromkeys(role for stage in stages for role in stage.roles))
    output.show()
    rows = [[s.stage, *(size(s.roles[role]) if role in s.roles else "" for role in roles)] for s in stages]
    output.table(["held for each model", *roles], rows)


def _yes(fits: bool | None) -> str:
    return "?" if fits is None else "yes" if fits else "no"


def _time(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3.4 h`; `?` where nobody can say."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _place(found: Diagnosis) -> str:
    if not found.gpus:
        return "memory of this machine"
    return f"{found.gpus.name} ({'as named' if found.gpus.is_named else 'of this machine'})"


def _free(amount: int | None) -> str:
    return "free memory unknown" if amount is None else f"{size(amount)} free"


def _verdict(found: Diagnosis, run_dir: Path | None) -> None:
    """Raise what does not fit: exit 6, as when memory or disk run out in a run."""
    largest = found.largest
    if not found.fits:
        ways = [f"--set {s.key}={toml_value(s.value)} ({size(s.bytes)})" for s in found.savings[:SHOWN_SAVINGS]]
        raise ResourceError(
            f"{largest.stage} will not fit: it needs {size(found.needed(largest))}, and {_free(found.free)}",
            where=_place(found),
            mend=f"one of {'; '.join(ways)}" if ways else "a smaller model or a larger machine",
        )
    if not found.disk_fits:
        raise ResourceError(
            f"the run will not fit on the disk: it needs {size(found.disk_needed)}, and {_free(found.disk_free)}",
            where=str(run_dir or Path.cwd()),
            mend="free some space, or lower checkpoint.keep",
        )


def _object(found: Diagnosis) -> dict[str, Any]:
    """For --json."""
    stages = [
        {
            "stage": stage.stage,
            "kind": stage.kind,
            "phase": stage.phase,
            "needed_bytes": found.needed(stage),
            "host_bytes": found.host(stage),
            "device_bytes": stage.tensors if found.gpus else None,
            "roles": stage.roles,
            "fits": found.stage_fits(stage),
            "seconds": found.seconds[stage.stage],
            "parts": {"libraries": stage.base} | {part.name: part.bytes for part in stage.parts},
        }
        for stage in found.stages
    ]
    gpus = found.gpus
    return {
        "fits": found.fits and found.disk_fits,
        "largest": found.largest.stage,
        "free_bytes": found.free,
        "seconds": found.total_seconds if found.basis else None,
        "time_basis": found.basis,
        "gpus": {"count": gpus.count, "name": gpus.name, "bytes": gpus.bytes} if gpus else None,
        "disk": {"needed_bytes": found.disk_needed, "free_bytes": found.disk_free},
        "stages": stages,
        "savings": [{"key": s.key, "value": s.value, "needed_bytes": s.bytes} for s in found.savings],
        "heap_factor": found.libraries.heap_factor,
        "versions": found.versions,
        "notes": found.notes,
    }
