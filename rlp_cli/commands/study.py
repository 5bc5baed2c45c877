"""`rlp study`: seeds, methods and values as runs, and one table of them all; the same again is resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlp_cli.asking import this_command
from rlp_cli.options import DryRun, Preset, Sets
from rlp_cli.render import Output
from rlp_cli.text import duration
from rlp_engine.errors import ConfigError, RlpError

if TYPE_CHECKING:
    from rlp_engine.study.launch import Outcome
    from rlp_engine.study.request import Asked, Request
    from rlp_engine.study.session import RunPlan, Study

SHOWN_TABLES = ("Policies", "Reward models", "Paired differences", "Paired differences at the same KL")
"""The preset's; --verbose and study.md have all."""


def study(
    output: Output,
    study_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="The study's folder; with --preset runs/NAME-study if left out.", show_default=False
        ),
    ] = None,
    preset: Preset = "",
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="N", help="How many, from the preset's seed on (5 if left out); or 1,2,3."),
    ] = "",
    methods: Annotated[
        str, typer.Option("--methods", metavar="M,M", help="Branches of every run; the preset's if left out.")
    ] = "",
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=V,V",
            help="Values to try, one key at a time around the preset; may be given often. With ppo.kl_coefficient "
            "every run gets a curve of gold against KL.",
            show_default=False,
        ),
    ] = None,
    sets: Sets = None,
    same_world: Annotated[
        bool, typer.Option("--same-world", help="Sandbox: one world for all seeds, not one for each.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Runs at a time.")] = 1,
    dry_run: DryRun = False,
) -> None:
    """Run seeds, methods and values, and compare them. The same command again resumes; more of each is added.

    Every seed, and every seed at each swept value, is an ordinary run below DIR that rlp status, report and run
    work on. Stages that a value does not touch are taken from the seed's first run. Writes study.md, study.json
    and a figure: means, standard errors over seeds, paired differences, and differences at the same KL.
    """
    from rlp_engine.run.lock import require_unlocked
    from rlp_engine.run.lock_owner import Watch
    from rlp_engine.study.request import Asked, read_request
    from rlp_engine.study.session import Study

    if study_dir is None:
        if not preset:
            raise typer.BadParameter("give a study's folder, or --preset NAME to make one")
        study_dir = Path("runs") / f"{preset}-study"
    old = read_request(study_dir)
    if old is None and not preset:
        mend = f"make one: rlp study {study_dir} --preset NAME --seeds 5"
        raise ConfigError(f"{study_dir} is not a study: it holds no study.toml", where=str(study_dir), mend=mend)
    asked = Asked(
        preset=preset,
        seeds=seeds,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        sets=sets or [],
        sweep=sweep or [],
        same_world=same_world or None,
    )
    request = _combined(asked, old)
    work = Study(study_dir, request, is_new=old is None)
    work.check()
    _require_what_is_read(work)
    require_unlocked(work.lock, Watch(told=output.say))
    _explain(output, work, old)
    if dry_run:
        _show_plan(output, work)
    else:
        _run(output, work, jobs)


def _combined(asked: Asked, old: Request | None) -> Request:
    from rlp_engine.study.grid import base_config
    from rlp_engine.study.request import combined

    base = base_config(old.preset if old else asked.preset)
    return combined(asked, old, seed=base.seed, methods=base.methods)


def _require_what_is_read(work: Study) -> None:
    """What a run of it reads and the config does not give, as `rlp run` would say."""
    from rlp_cli.execution import require_all
    from rlp_engine.stages.pipeline import build_pipeline

    if all(not found.due for found in work.plans()):
        return  # a finished study stays one when its sources are gone
    resolved = work.resolved(work.runs[0])
    require_all(resolved, build_pipeline(resolved.config), where=f"--preset {work.request.preset}")


def _explain(output: Output, work: Study, old: Request | None) -> None:
    """What is not plain from the options."""
    from rlp_engine.study.request import KL_COEFFICIENT

    if old is not None and old != work.request:
        output.say(f"added to the study: {', '.join(_added(old, work.request))}")
    if work.has_worlds:
        output.say("every seed has a sandbox world of its own (sandbox.seed = seed); --same-world keeps one for all")
    if KL_COEFFICIENT in work.request.sweep:
        output.say(f"{KL_COEFFICIENT}: more PPO stages in every run, from the same reward models ([curve])")


def _added(old: Request, new: Request) -> list[str]:
    more = [f"seed {seed}" for seed in new.seeds if seed not in old.seeds]
    more += [f"method {method}" for method in new.methods if method not in old.methods]
    for key, values in new.sweep.items():
        more += [f"{key}={value}" for value in values if value not in old.sweep.get(key, ())]
    return more


def _show_plan(output: Output, work: Study) -> None:
    """The runs, and what each would do."""
    plans = work.plans()
    rows = [
        [p.run.name, f"{len(p.stages) - len(p.due)} of {len(p.stages)}", str(len(p.to_run)), str(len(p.to_adopt))]
        for p in plans
    ]
    output.table(["run", "stages done", "to run", "to adopt"], rows)
    if output.verbose:
        for found in plans:
            for words, names in (("runs", found.to_run), ("adopts", found.to_adopt)):
                if names:
                    output.show(f"{found.run.name} {words} {', '.join(names)}")
    is_due = any(found.due for found in plans)
    output.show(f"Nothing was written. To do this: {this_command()}" if is_due else "Nothing to do.")
    runs = [{"run": p.run.name, "to_run": p.to_run, "to_adopt": p.to_adopt, "done": not p.due} for p in plans]
    output.result({"study_dir": str(work.study_dir), "dry_run": True, "runs": runs})


def _run(output: Output, work: Study, jobs: int) -> None:
    """Make the runs, start what is due, and write the tables over what is done, however it ended."""
    from rlp_engine.config.outside import refuse_links_outside
    from rlp_engine.run.lock import RunLock
    from rlp_engine.run.signals import StopSignal
    from rlp_engine.study.launch import run_all

    work.study_dir.mkdir(parents=True, exist_ok=True)
    refuse_links_outside(work.study_dir)
    with StopSignal(f"to continue: rlp study {work.shown}") as stop, RunLock(work.lock) as lock:
        stop.before_exit(lock.abandon)
        work.make()
        plans = work.plans()
        tasks = work.tasks(plans)
        progress = _Progress(output, plans)
        output.say(f"{len(tasks)} of {len(plans)} runs to do" if tasks else "nothing to run: every run is done")
        outcomes = run_all(tasks, jobs=jobs, stop=stop, on_event=progress.event, on_end=progress.end)
        output.stop_progress()
        failed = [outcome for outcome in outcomes if outcome.exit_code and not stop.requested]
        value, unreadable = _write(output, work, failed)
        stop.check(f"{len(value['runs']['left'])} of {len(plans)} runs are not done")
    if failed:
        raise _as_error(failed, work)
    for error in unreadable:
        raise error
    output.result({"study_dir": str(work.study_dir), **value})


def _write(output: Output, work: Study, failed: Sequence[Outcome]) -> tuple[dict[str, Any], list[RlpError]]:
    """The files of the study and its first tables, over the runs that have results. Returns study.json's content."""
    from rlp_engine.study.summary import summarise
    from rlp_engine.study.write import write_study

    results, unreadable = work.results()
    summary = summarise(results)
    trouble = {name: error.what for name, error in unreadable.items()} | {o.name: _why(o) for o in failed}
    shown = [run.name for run in work.runs if (run.seed, run.variant) in {found.run for found in results}]
    standing = work.standing(work.plans(), trouble, shown)
    value = write_study(work.study_dir, work.shown, work.request, summary, standing)
    _show_results(output, summary, value["files"])
    return value, list(unreadable.values())


def _show_results(output: Output, summary: Any, files: Sequence[str]) -> None:
    from rlp_engine.study.tables import tables

    for table in tables(summary):
        if output.verbose or any(table.title == name or table.title.startswith(f"{name}:") for name in SHOWN_TABLES):
            output.show()
            output.show(f"{table.title}. {table.note}" if output.verbose else table.title, "head")
            output.table(table.headers, table.rows)
    output.show()
    for path in files:
        output.show(path)


def _why(outcome: Outcome) -> str:
    return f"failed with exit code {outcome.exit_code}: {outcome.error.get('what', 'no word why')}"


def _as_error(failed: Sequence[Outcome], work: Study) -> RlpError:
    """The first failure, with its exit code; the others are in study.md and in their runs' logs."""
    first = failed[0]
    parts = {name: str(first.error[name]) for name in ("where", "found", "want") if first.error.get(name)}
    more = f" ({len(failed) - 1} more failed: {', '.join(o.name for o in failed[1:])})" if len(failed) > 1 else ""
    what = f"{first.name}: {first.error.get('what', 'it ended without a word')}{more}"
    mend = f"{first.error.get('mend', '')}; then: rlp study {work.shown}".removeprefix("; then: ")
    error = RlpError(what, mend=mend, **parts)
    error.exit_code = first.exit_code
    return error


class _Progress:
    """A line when a stage of a run is done; on a terminal a bar over the stages of all runs as well."""

    def __init__(self, output: Output, plans: Sequence[RunPlan]) -> None:
        self._output = output
        self._total = {found.run.name: len(found.stages) for found in plans}
        self._done = {found.run.name: len(found.stages) - len(found.due) for found in plans}
        self._now: dict[str, str] = {}
        self._adopted: dict[str, list[str]] = {}  # run -> stages since its last line
        self._width = max(len(name) for name in self._total)

    def event(self, run: str, event: dict[str, Any]) -> None:
        stage = str(event.get("stage", ""))
        if event["event"] == "adopted":
            self._done[run] += 1
            self._adopted.setdefault(run, []).append(str(event.get("source", "")))
        elif event["event"] == "started":
            self._tell_adopted(run)
            self._now[run] = stage
        else:
            self._done[run] += 1
            self._line(run, f"{stage}: done in {duration(event.get('seconds', 0))}")
        self._bar()

    def _tell_adopted(self, run: str) -> None:
        """Stages are adopted many at a time and at once: one line for all of them."""
        if sources := self._adopted.pop(run, []):
            self._line(run, f"{len(sources)} stages adopted from {', '.join(dict.fromkeys(sources))}")

    def _line(self, run: str, text: str) -> None:
        total = self._total[run]
        count = f"{min(self._done[run], total):>{len(str(total))}} of {total}"
        self._output.say(f"  {run:<{self._width}}   {count}   {text}")

    def end(self, outcome: Outcome) -> None:
        self._now.pop(outcome.name, None)
        self._tell_adopted(outcome.name)
        if outcome.exit_code in (129, 130, 143):
            self._output.say(f"{outcome.name}: stopped after {duration(outcome.seconds)}", "pending")
        elif outcome.exit_code:
            self._output.warn(f"{outcome.name} {_why(outcome)}")
        else:
            self._output.say(f"{outcome.name}: done in {duration(outcome.seconds)}", "good")
        self._bar()

    def _bar(self) -> None:
        now = ", ".join(f"{run} {stage}" for run, stage in self._now.items())
        self._output.progress("stages", sum(self._done.values()), sum(self._total.values()), now)
