"""Plan, check, run: what `rlp run` and the commands of single stages share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rlp_cli.asking import confirmed, this_command
from rlp_cli.launching import ONE_PROCESS, Part, start
from rlp_cli.render import Output
from rlp_cli.reporter import ConsoleReporter
from rlp_cli.results import read_results, show_results, write_report
from rlp_cli.text import toml_value
from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    from rlp_engine.config.load import Resolved
    from rlp_engine.config.schema import RunConfig
    from rlp_engine.stages.plan import PlannedStage
    from rlp_engine.stages.selection import Selection
    from rlp_engine.stages.spec import StageSpec


def with_changes(output: Output, run_dir: Path, sets: Sequence[str], *, dry_run: bool, yes: bool) -> Resolved:
    """The run's config after --set. What changes is shown, and asked about; `run_stages` writes it."""
    from rlp_engine.config.describe import differences
    from rlp_engine.config.load import load_run

    new = load_run(run_dir, sets, refuse_missing=False)
    if not sets:
        return new
    old = load_run(run_dir, check_files=False)
    changes = differences(old, new)
    for key, before, after in changes:
        output.say(f"{key}: {toml_value(before)} -> {toml_value(after)}")
    if not changes or dry_run:
        return new
    stale = _made_stale(run_dir, old, new)
    if stale:
        output.say(f"makes stale: {', '.join(stale)}  (what they made is moved to superseded/ when they run again)")
        if not confirmed(output, f"change run.toml and make {len(stale)} finished stages stale?", yes=yes):
            raise typer.Abort()
    return new


def _made_stale(run_dir: Path, old: Resolved, new: Resolved) -> list[str]:
    from rlp_engine.stages.pipeline import build_pipeline
    from rlp_engine.stages.plan import plan

    def done(resolved: Resolved) -> list[str]:
        planned = plan(run_dir, build_pipeline(resolved.config), resolved.config)
        return [stage.spec.name for stage in planned if stage.status == "done"]

    still = set(done(new))
    return [name for name in done(old) if name not in still]


def run_stages(
    output: Output,
    run_dir: Path,
    resolved: Resolved,
    selection: Selection,
    *,
    dry_run: bool,
    write: Callable[[], object] | None = None,
    adopt_from: Sequence[Path] = (),
    part: Part = ONE_PROCESS,
    words: Sequence[str] = (),
) -> None:
    """Check what will run, then run it; with `dry_run` show it instead. Both give the same verdict.

    `write` puts what is in `resolved` into run.toml; it is called when nothing speaks against the run.
    As a parent the ranks of a launcher run it: `words` is the same selection as a command line for them.
    """
    from rlp_engine.run.layout import RunLayout
    from rlp_engine.run.lock import require_unlocked
    from rlp_engine.run.lock_owner import Watch
    from rlp_engine.stages.pipeline import build_pipeline
    from rlp_engine.stages.plan import plan

    config = resolved.config
    pipeline = build_pipeline(config)
    planned = plan(run_dir, pipeline, config, selection)
    due = [stage for stage in planned if stage.is_due]
    told = tell_notices(output, config, {stage.spec.kind for stage in due}) if dry_run else []
    if dry_run:
        show_plan(output, planned)
    require_all(resolved, [stage.spec for stage in due], where=str(run_dir / "run.toml"))
    for stage in due:
        if stage.refusal is not None:
            raise stage.refusal
    if due or write:
        require_unlocked(RunLayout(run_dir).lock, Watch(told=output.say))
    if dry_run:
        output.show(f"Nothing was written. To do this: {this_command()}" if due else "Nothing to do.")
        stages = [plan_object(stage) for stage in planned]
        output.result({"run_dir": str(run_dir), "dry_run": True, "stages": stages, "notices": told})
        return
    if write:
        write()
    if part.request and (due or part.request.nnodes > 1):  # other machines wait for a word, even if there is no work
        start(output, part, run_dir, words)
    elif due:
        from rlp_engine.stages.runner import execute

        execute(run_dir, pipeline, config, selection, ConsoleReporter(output), adopt_from)
    else:
        from rlp_engine.run.clean import sweep

        sweep(RunLayout(run_dir))
        output.say("nothing to do: every stage that was asked for is done")
    if part.says_the_end:
        _finish(output, run_dir, plan(run_dir, pipeline, config), has_news=bool(due))


def tell_notices(output: Output, config: RunConfig, kinds: Collection[str] | None = None) -> list[str]:
    """What the config lets strangers do, for commands that do not run stages (a run says it itself)."""
    from rlp_engine.config.notices import notices

    found = notices(config, kinds)
    for notice in found:
        (output.warn if notice.is_warning else output.say)(notice.text)
    return [notice.text for notice in found]


def tell_code(output: Output, config: RunConfig) -> None:
    """Before a command loads models of a run."""
    from rlp_engine.config.notices import notices

    for notice in notices(config):
        if "model.trust_remote_code" in notice.keys:
            output.warn(notice.text)


def require_all(resolved: Resolved, specs: Sequence[StageSpec], *, where: str) -> None:
    """Raise all at once what these stages read and the config does not give, or names though it is not there."""
    from rlp_engine.config.schema import value_of
    from rlp_engine.stages.required_data import required_data

    config, kinds = resolved.config, {spec.kind for spec in specs}
    read = {item.path for spec in specs for item in spec.inputs if not item.stage}
    problems = required_data(config, kinds)
    problems += [error for key, error in resolved.missing.items() if _is_read(value_of(config, key), read)]
    if "sft" in kinds and config.model.init == "pretrained" and not config.model.path:
        problems.insert(0, ConfigError("stage sft needs model.path", mend="--set model.path=MODEL"))
    for problem in problems:
        problem.where = problem.where or where
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError(f"{len(problems)} things are missing", where=where, problems=list(problems))


def _is_read(value: str | list[str], read: set[str]) -> bool:
    """Is this path, or one of these annotators, an input of a stage?"""
    from rlp_engine.config.annotators import annotator_path

    return value in read if isinstance(value, str) else any(str(annotator_path(name)) in read for name in value)


def _finish(output: Output, run_dir: Path, planned: Sequence[PlannedStage], *, has_news: bool) -> None:
    """The results, the page, and what is left to do. Without news nothing is written."""
    from rlp_engine.report.newest import shows_newest
    from rlp_engine.run.layout import RunLayout

    results = read_results(run_dir) if any(_is_results(stage) for stage in planned) else None
    report = RunLayout(run_dir).report
    if has_news or not shows_newest(report):
        write_report(run_dir)
    if results:
        output.show()
        show_results(output, results)
    left = [stage.spec.name for stage in planned if stage.is_due]
    if left:
        output.say(f"{len(left)} stages are still to do: rlp run {run_dir}")
    output.show(f"report: {report}")
    stages = [plan_object(stage) for stage in planned]
    output.result({"run_dir": str(run_dir), "stages": stages, "results": results, "report": str(report)})


def _is_results(stage: PlannedStage) -> bool:
    return stage.spec.kind == "evaluate" and stage.status == "done"


def show_plan(output: Output, planned: Sequence[PlannedStage]) -> None:
    """What each stage is, what will become of it, and why."""
    rows = [[stage.spec.name, stage.status, stage.will, stage.because] for stage in planned]
    output.table(["stage", "status", "will", "because"], rows)


def plan_object(stage: PlannedStage) -> dict[str, Any]:
    """For --json."""
    return {
        "stage": stage.spec.name,
        "kind": stage.spec.kind,
        "status": stage.status,
        "will": stage.will,
        "because": stage.because,
        "reasons": list(stage.reasons),
    }
