"""What is done, what would run, and why, in words. Only looks: nothing is written, nothing heavy is imported."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlp_engine.config.schema import RunConfig
from rlp_engine.errors import ConfigError, CorruptArtifactError, RlpError
from rlp_engine.run.attempt import FORCED, Complete, complete, corrupt
from rlp_engine.run.fingerprint import DigestCache, InputDigest, Work, safe_keys, section_values
from rlp_engine.run.layout import CHECKPOINTS, RunLayout
from rlp_engine.run.lock_owner import live_owner
from rlp_engine.run.manifest import AttemptRecord, read_attempt, size_problems
from rlp_engine.stages.selection import Chosen, Selection, choose
from rlp_engine.stages.spec import StageInput, StageSpec, check_pipeline, is_remote

SAFE_KEYS = safe_keys(RunConfig)
MADE_AGAIN = "will be made again"  # by the same work, so that most likely nothing changes


@dataclass(frozen=True)
class PlannedStage:
    """A stage's state and what the next run does with it."""

    spec: StageSpec
    status: str  # missing, running, interrupted, failed, done, stale, not needed
    will: str  # skip, run, continue, start again; refuse: the run stops with `refusal`
    because: str  # one line; "" when there is nothing to say
    work: Work
    fingerprint: str  # of `work`; "" while an input still has to be made
    reasons: tuple[str, ...] = ()  # why a finished state does not stand, all of them
    notes: tuple[str, ...] = ()  # what to warn about when it runs
    refusal: RlpError | None = None

    @property
    def is_due(self) -> bool:
        return self.will != "skip"


def plan(
    run_dir: Path, pipeline: Sequence[StageSpec], config: RunConfig, selection: Selection | None = None
) -> list[PlannedStage]:
    """Every stage of the pipeline in order, with what a run with this selection would do.

    A stage that would be refused says so here too (`will`, `refusal`), so that a dry run ends as the run would.

    Raises:
        ConfigError: the selection fits no stage.
    """
    return plan_chosen(run_dir, pipeline, config, resolve(run_dir, pipeline, config, selection))


def resolve(
    run_dir: Path,
    pipeline: Sequence[StageSpec],
    config: RunConfig,
    selection: Selection | None = None,
    *,
    digests: DigestCache | None = None,
) -> Chosen:
    """The stages that a selection means now. Resolve once, then run: `the next one due` is another one later."""

    def due(chosen: Chosen) -> frozenset[str]:
        stages = plan_chosen(run_dir, pipeline, config, chosen, digests=digests)
        chosen_ones = [stage for stage in stages if stage.spec.name in chosen.names]
        return frozenset(stage.spec.name for stage in chosen_ones if stage.is_due or stage.status != "done")

    return choose(selection or Selection(), pipeline, due)


def plan_chosen(
    run_dir: Path,
    pipeline: Sequence[StageSpec],
    config: RunConfig,
    chosen: Chosen,
    *,
    digests: DigestCache | None = None,
) -> list[PlannedStage]:
    """`plan` for a selection that is resolved already.

    Args:
        digests: sha256 of files outside the run, as far as known; by default the run's own cache.
    """
    check_pipeline(pipeline)
    layout = RunLayout(run_dir)
    planner = _Planner(layout, config, chosen, digests or DigestCache(layout.digests))
    return [planner.plan(spec) for spec in pipeline]


@dataclass(frozen=True)
class _Given:
    """What is known of one input."""

    digest: str  # "" = not known yet
    reason: str = ""  # what this means for a finished state
    problem: RlpError | None = None  # nobody makes or mends it in this run
    waits_for: str = ""  # a stage that is not selected and would solve the problem
    note: str = ""


class _Planner:
    """Walks the pipeline once; later stages ask what becomes of earlier ones."""

    def __init__(self, layout: RunLayout, config: RunConfig, chosen: Chosen, digests: DigestCache) -> None:
        self._layout = layout
        self._config = config
        self._chosen = chosen
        self._digests = digests
        self._planned: dict[str, PlannedStage] = {}
        self._complete: dict[str, Complete | None] = {}
        self._damage: dict[str, RlpError | None] = {}

    def plan(self, spec: StageSpec) -> PlannedStage:
        name = spec.name
        self._complete[name], self._damage[name] = None, None
        try:
            self._complete[name] = complete(self._layout, name)
        except CorruptArtifactError as error:
            self._damage[name] = error
        found = self._complete[name]
        if found and (problems := size_problems(found.folder, found.manifest.outputs)):
            self._damage[name] = corrupt(self._layout, name, found.folder, problems)
        self._planned[name] = self._decide(spec, found, self._damage[name])
        return self._planned[name]

    def _decide(self, spec: StageSpec, found: Complete | None, damage: RlpError | None) -> PlannedStage:
        is_forced = spec.name in self._chosen.forced
        old = found.manifest.work if found else None
        attempt = self._attempt(spec.name, found)
        work, given = self._work(spec, old)
        changed = work.differs_from(old, SAFE_KEYS) if old else []
        reasons = tuple(dict.fromkeys([*changed, *(item.reason for item in given if item.reason)]))
        fingerprint = work.fingerprint(SAFE_KEYS)
        # Work that --force began goes on without it, and does not need a reason of its own.
        is_redoing = attempt is not None and attempt.reason == FORCED and attempt.fingerprint == fingerprint
        status = _status(None if is_redoing else found, damage, reasons, attempt)
        stage = PlannedStage(
            spec=spec,
            status=status,
            will="run",
            because="not done yet",
            work=work,
            fingerprint=fingerprint,
            reasons=reasons if old else (),
            notes=tuple(item.note for item in given if item.note),
        )
        if spec.name not in self._chosen.names:
            because = "" if status == "done" else "not selected"
            return replace(stage, status="not needed" if status == "missing" else status, will="skip", because=because)
        if attempt and self._is_running(attempt):
            return replace(
                stage, status="running", will="continue", because=f"pid {attempt.pid} on {attempt.host} works on it"
            )
        if found and not reasons and not damage and not is_forced and not is_redoing:
            if found.is_half_committed:
                return replace(stage, status="interrupted", will="continue", because="only its last rename is missing")
            return replace(stage, will="skip", because="")
        if damage and not is_forced and not is_redoing and (found is None or not reasons):
            return replace(stage, will="refuse", because=damage.what, refusal=damage)
        if problems := [item for item in given if item.problem]:
            return self._blocked(stage, problems)
        if attempt:
            return self._resume(stage, attempt, is_forced)
        return replace(stage, because=FORCED if is_forced else in_one_line(stage.reasons) or stage.because)

    def _resume(self, stage: PlannedStage, attempt: AttemptRecord, is_forced: bool) -> PlannedStage:
        """Go on with unfinished work, or not."""
        if attempt.fingerprint == stage.fingerprint and not is_forced:
            return replace(stage, will="continue", because=_how_it_ended(attempt))
        why = [FORCED]
        if not is_forced:
            # What changed since the unfinished work began; the finished state before it may be another one.
            given = self._work(stage.spec, attempt.work)[1]
            why = [*stage.work.differs_from(attempt.work, SAFE_KEYS), *(item.reason for item in given if item.reason)]
        partial = self._layout.partial(stage.spec.name)
        kept = "checkpoints are" if (partial / CHECKPOINTS).exists() else "unfinished work is"
        because = f"{in_one_line(why)}; its {kept} kept aside"
        return replace(stage, will="start again", because=because, reasons=tuple(why))

    def _blocked(self, stage: PlannedStage, given: Sequence[_Given]) -> PlannedStage:
        """A stage with inputs that nobody makes in this run."""
        hopeless = [item for item in given if not item.waits_for]
        if hopeless or stage.spec.name in self._chosen.named:
            problem = (hopeless or given)[0].problem
            return replace(stage, will="refuse", because=problem.what, refusal=problem)
        stages = ", ".join(sorted({item.waits_for for item in given}))
        return replace(stage, will="skip", because=f"waits for {stages}, which this selection leaves out")

    def _work(self, spec: StageSpec, old: Work | None) -> tuple[Work, list[_Given]]:
        """The work as the config stands, and what is known of each input."""
        given = []
        for item in spec.inputs:
            before = old.inputs.get(item.name) if old else None
            given.append(self._from_stage(spec, item) if item.stage else self._from_outside(item, before))
        inputs = {
            item.name: InputDigest(item.stage, item.path, known.digest)
            for item, known in zip(spec.inputs, given, strict=True)
        }
        params = json.loads(json.dumps(dict(spec.params)))  # tuples become lists, as they come back from stage.json
        return Work(spec.version, params, section_values(self._config, spec.sections), inputs), given

    def _from_stage(self, spec: StageSpec, item: StageInput) -> _Given:
        maker, found, damage = self._planned[item.stage], self._complete[item.stage], self._damage[item.stage]
        is_whole = found is not None and found.is_half_committed and not maker.reasons
        if maker.will not in ("skip", "refuse") and not is_whole:
            # Work of the same fingerprint gives the same files, unless somebody had a reason to force it.
            is_same = _stands(maker.reasons) and (maker.status == "done" or found is None)
            return _Given("", f"its input {item.label} {MADE_AGAIN if is_same else 'will change'}")
        if found is None:
            problem = damage or maker.refusal
            waits_for = "" if problem else item.stage
            problem = problem or ConfigError(
                f"{spec.name} needs {item.label}, and {item.stage} is not done",
                where=str(self._layout.stage(item.stage)),
                mend=f"make it first: rlp run {self._layout.shown} --until {item.stage}",
            )
            return _Given("", f"its input {item.label} is missing", problem, waits_for)
        digest = found.manifest.digest(item.path)
        if not digest:
            what = f"{item.stage} made no {item.path}, which {spec.name} reads"
            problem = CorruptArtifactError(what, where=str(found.folder), mend=self._redo(item.stage))
            return _Given("", f"its input {item.label} is missing", problem)
        problems = size_problems(found.folder, found.manifest.below(item.path))
        note = ""
        if not _stands(maker.reasons):
            note = f"{item.stage} is stale ({in_one_line(maker.reasons)}); {spec.name} uses what it made before"
        problem = corrupt(self._layout, item.stage, found.folder, problems) if problems else None
        return _Given(digest, "", problem, note=note)

    def _from_outside(self, item: StageInput, before: InputDigest | None) -> _Given:
        if is_remote(item.path):
            return _Given(f"hub:{item.path.removeprefix('hub:')}")
        try:
            return _Given(self._digests.of(Path(item.path).expanduser()))
        except OSError as error:
            problem = ConfigError(
                f"cannot read {item.path}",
                where=f"{item.name}: {error.strerror}",
                mend="correct the path, or make it readable",
            )
        if before and before.path == item.path:
            return _Given(before.digest, "", problem)  # a finished run stays one when its sources are gone
        return _Given("", f"its input {item.path} is missing", problem)

    def _attempt(self, name: str, found: Complete | None) -> AttemptRecord | None:
        """Unfinished work; what lacks only the last rename is none."""
        return None if found and found.is_half_committed else read_attempt(self._layout.partial(name))

    def _is_running(self, attempt: AttemptRecord) -> bool:
        owner = live_owner(self._layout.lock)
        if attempt.status != "running" or owner is None:
            return False
        is_me = (owner.host, owner.pid) == (socket.gethostname(), os.getpid())
        return not is_me and (owner.host, owner.pid) == (attempt.host, attempt.pid)

    def _redo(self, name: str) -> str:
        return f"rlp run {self._layout.shown} --force {name}"


def in_one_line(reasons: Sequence[str], most: int = 3) -> str:
    """The first few reasons, and how many more there are."""
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more


def _status(
    found: Complete | None, damage: RlpError | None, reasons: Sequence[str], attempt: AttemptRecord | None
) -> str:
    """Of a stage that nobody works on."""
    if found and _stands(reasons) and not damage:
        return "done"
    if attempt:
        return "failed" if attempt.status == "failed" else "interrupted"
    return "stale" if found or damage else "missing"


def _stands(reasons: Sequence[str]) -> bool:
    """Nothing speaks against a finished state but inputs that will most likely come out as they were."""
    return all(reason.endswith(MADE_AGAIN) for reason in reasons)


def _how_it_ended(attempt: AttemptRecord) -> str:
    if attempt.status == "running":
        return f"its process ended without a word (pid {attempt.pid} on {attempt.host})"
    return attempt.message
