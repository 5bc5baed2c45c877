"""A study in its folder: what its runs are, what is due, the processes that do it, and what they came to.

study.toml                   what was asked
seed-42/  seed-43/           one ordinary run a seed
seed-42--KEY=VALUE/          and one for each value of a swept key
study.md  study.json  figure.svg  figure.png
lock                         the one `rlp study` that works here; every run has its own lock beside
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlp_engine.config.load import Resolved, load_preset
from rlp_engine.errors import ConfigError, CorruptArtifactError
from rlp_engine.run.layout import RunLayout
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.plan import PlannedStage, plan
from rlp_engine.study.grid import StudyRun, check_runs, make_run, runs_of, shared_stages
from rlp_engine.study.launch import Task
from rlp_engine.study.read import RunResults, read_run_results
from rlp_engine.study.request import Request, write_request

COMMAND = (sys.executable, "-m", "rlp_cli")


@dataclass(frozen=True)
class RunPlan:
    """What one run of the study has to do."""

    run: StudyRun
    stages: Sequence[PlannedStage]
    shared: frozenset[str]  # stages that the seed's first run makes alike

    @property
    def due(self) -> list[str]:
        return [stage.spec.name for stage in self.stages if stage.is_due]

    @property
    def to_run(self) -> list[str]:
        return [name for name in self.due if name not in self.shared]

    @property
    def to_adopt(self) -> list[str]:
        return [name for name in self.due if name in self.shared]


class Study:
    """A request and a folder. Nothing is written before `make`."""

    def __init__(self, study_dir: Path, request: Request, *, is_new: bool) -> None:
        self.study_dir = Path(study_dir).absolute()
        self.request = request
        self._is_new = is_new

    @cached_property
    def runs(self) -> list[StudyRun]:
        return runs_of(self.request)

    @property
    def shown(self) -> str:
        return RunLayout(self.study_dir).shown

    @property
    def lock(self) -> Path:
        return self.study_dir / "lock"

    @property
    def has_worlds(self) -> bool:
        """Has every seed a sandbox world of its own?"""
        return self.resolved(self.runs[0]).config.data.source == "sandbox" and not self.request.same_world

    def run_dir(self, run: StudyRun) -> Path:
        return self.study_dir / run.name

    def resolved(self, run: StudyRun) -> Resolved:
        """The config that the study wants this run to have."""
        return load_preset(self.request.preset, run.sets, refuse_missing=False)

    def check(self) -> None:
        """The folder is free, or holds the runs of this very study.

        Raises:
            ConfigError: it is not so, or the request cannot be run.
        """
        if self._is_new and self.study_dir.exists() and (not self.study_dir.is_dir() or any(self.study_dir.iterdir())):
            raise ConfigError(
                f"{self.shown} holds other files already, and no study",
                where=str(self.study_dir),
                mend="choose a folder that is empty or not there yet",
            )
        check_runs(self.study_dir, self.request, self.runs)

    def plans(self) -> list[RunPlan]:
        """Of every run, as the folder stands now and as the request wants its config."""
        configs = {run.name: self.resolved(run).config for run in self.runs}
        found = []
        for run in self.runs:
            config = configs[run.name]
            first = self._first(run)
            shared = shared_stages(configs[first.name], config) if first is not run else set()
            stages = plan(self.run_dir(run), build_pipeline(config), config)
            found.append(RunPlan(run, stages, frozenset(shared)))
        return found

    def make(self) -> None:
        """study.toml, and the run directories with their run.toml. Call it with the lock."""
        write_request(self.study_dir, self.request)
        for run in self.runs:
            make_run(self.study_dir, self.request, run)

    def tasks(self, plans: Sequence[RunPlan]) -> list[Task]:
        """A process for each run that has something to do; a seed's first run before those that take its stages."""
        due = {found.run.name: found.run for found in plans if found.due}
        tasks = []
        for run in due.values():
            first = self._first(run)
            siblings = [other for other in self.runs if other.seed == run.seed and other is not run]
            siblings = sorted(siblings, key=lambda other: other is not first) if run is not first else []
            adopt = [word for other in siblings for word in ("--adopt-from", str(self.run_dir(other)))]
            after = (first.name,) if run is not first and first.name in due else ()
            command = (*COMMAND, "run", str(self.run_dir(run)), "--json", *adopt)
            tasks.append(Task(run.name, self.run_dir(run), command, after))
        return sorted(tasks, key=lambda task: bool(task.after))

    def results(self) -> tuple[list[RunResults], dict[str, CorruptArtifactError]]:
        """Of the runs whose evaluation is there, and the runs where it cannot be read."""
        results: list[RunResults] = []
        unreadable: dict[str, CorruptArtifactError] = {}
        for run in self.runs:
            try:
                found = read_run_results(self.run_dir(run), run.seed, run.variant)
            except CorruptArtifactError as error:
                unreadable[run.name] = error
                continue
            if found is not None:
                results.append(found)
        return results, unreadable

    def standing(self, plans: Sequence[RunPlan], trouble: Mapping[str, str], shown: Collection[str]) -> dict[str, Any]:
        """Which runs are done, and why the others are not: {"done": [...], "left": {run: reason}}.

        Args:
            trouble: what went wrong in some runs, in words.
            shown: runs with results in the tables.
        """
        names = [found.run.name for found in plans]
        due = {found.run.name for found in plans if found.due}
        left = {}
        for name in names:
            if name in due or name in trouble:
                why = trouble.get(name, "not done yet")
                left[name] = f"{why}; shown with what it had before" if name in shown else why
        return {"done": [name for name in names if name not in left], "left": left}

    def _first(self, run: StudyRun) -> StudyRun:
        return next(other for other in self.runs if other.seed == run.seed and not other.key)
