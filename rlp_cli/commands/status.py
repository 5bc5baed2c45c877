"""`rlp status DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlp_cli.options import RunDir
from rlp_cli.render import Output
from rlp_cli.text import duration, number
from rlp_engine.errors import CorruptArtifactError, WorkPending

if TYPE_CHECKING:
    from rlp_engine.run.manifest import Manifest
    from rlp_engine.run.verify import Verified
    from rlp_engine.stages.plan import PlannedStage


def status(
    output: Output,
    run_dir: RunDir,
    why: Annotated[bool, typer.Option("--why", help="Every reason why a stage would run.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 10 unless everything is done.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all outputs again and compare them with stage.json.")
    ] = False,
) -> None:
    """Show what is done, what would run, and the reason."""
    from rlp_cli.execution import plan_object
    from rlp_cli.stages import load_pipeline
    from rlp_engine.run.layout import RunLayout
    from rlp_engine.run.lock_owner import live_owner
    from rlp_engine.run.warned import warned
    from rlp_engine.stages.plan import plan

    resolved, pipeline = load_pipeline(run_dir)
    planned = plan(run_dir, pipeline, resolved.config)
    manifests = {stage.spec.name: _manifest(run_dir, stage) for stage in planned}
    owner = live_owner(RunLayout(run_dir).lock)
    _show(output, planned, manifests, why=why)
    alarms = warned(RunLayout(run_dir).events)
    for name, own in alarms.items():
        more = f" (and {len(own) - 1} more; rlp report shows them)" if len(own) > 1 else ""
        output.show(f"{name} warned at step {own[-1].step}: {own[-1].message}{more}", "pending")
    if owner:
        output.show(f"working on it: {owner}")
    found = _verify(output, run_dir, planned) if verify else None
    damaged = found.error(run_dir) if found else None
    due = [stage for stage in planned if stage.is_due]
    refused = next((stage.refusal for stage in due if stage.refusal), None)
    if owner and due:
        output.say(f"{len(due)} of {len(planned)} stages are still to do")
    elif refused:
        output.say(f"rlp run {run_dir} would stop: {refused.what}; {refused.mend}", "pending")
    elif due:
        output.say(f"{len(due)} of {len(planned)} stages would run: rlp run {run_dir}")
    elif not damaged:
        output.say(f"all {len(planned)} stages are done", "good")
    stages = [
        plan_object(stage)
        | _made(manifests[stage.spec.name])
        | {"warnings": [asdict(one) for one in alarms.get(stage.spec.name, [])]}
        for stage in planned
    ]
    values = {"run_dir": str(run_dir), "done": not due and not damaged, "running": str(owner) if owner else None}
    damage = [{"stage": one.stage, "problem": one.problem} for one in found.damage] if found else []
    output.result(values | {"stages": stages} | ({"damaged": damage} if verify else {}))
    _verdict(due if check else [], damaged, run_dir)


def _show(output: Output, planned: Sequence[PlannedStage], manifests: dict[str, Manifest | None], *, why: bool) -> None:
    if why:
        output.table(
            ["stage", "status", "will", "because"],
            [[s.spec.name, s.status, s.will, "; ".join(s.reasons) or s.because] for s in planned],
        )
        return
    rows = []
    for stage in planned:
        manifest = manifests[stage.spec.name]
        took = duration(manifest.seconds) if manifest else ""
        rows.append(
            [stage.spec.name, stage.status, took, _headline(manifest) if stage.status == "done" else stage.because]
        )
    output.table(["stage", "status", "took", ""], rows)


def _headline(manifest: Manifest | None) -> str:
    numbers = [(k, v) for k, v in (manifest.summary if manifest else {}).items() if isinstance(v, int | float)]
    return ", ".join(f"{key} {number(value)}" for key, value in numbers[:4])


def _manifest(run_dir: Path, stage: PlannedStage) -> Manifest | None:
    from rlp_engine.run.layout import RunLayout
    from rlp_engine.run.manifest import read_manifest

    try:
        return read_manifest(RunLayout(run_dir).stage(stage.spec.name))
    except CorruptArtifactError:
        return None  # the plan says so, in the stage's line


def _made(manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        return {"seconds": None, "finished": None, "summary": None}
    return {"seconds": manifest.seconds, "finished": manifest.finished, "summary": manifest.summary}


def _verify(output: Output, run_dir: Path, planned: Sequence[PlannedStage]) -> Verified:
    """Shows every output whose content is not what its stage.json recorded."""
    from rlp_engine.run.verify import verify

    found = verify(run_dir, [stage.spec.name for stage in planned])
    for one in found.damage:
        output.show(f"{one.stage}: {one.problem}", "error")
    if not found.damage:
        output.say(f"{found.files} outputs have the content that stage.json recorded", "good")
    return found


def _verdict(due: Sequence[PlannedStage], damaged: CorruptArtifactError | None, run_dir: Path) -> None:
    for error in (damaged, *(stage.refusal for stage in due)):
        if error is not None:
            raise error
    if due:
        names = ", ".join(stage.spec.name for stage in due)
        raise WorkPending(f"{len(due)} stages are not done: {names}", mend=f"rlp run {run_dir}")
