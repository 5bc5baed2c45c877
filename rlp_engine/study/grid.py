"""From a request to its runs: one ordinary run directory for every seed, and for every seed and swept value.

    seed-43/                                     the preset
    seed-43--refine_rm.multi_view.weight=0.1/    the same seed, one key at another value

Keys are swept one at a time around the preset, as tables of ablations are read; their product is another study
with `--set`. `ppo.kl_coefficient` makes no runs: it becomes the curve of every run ([curve], METHOD 5): more PPO
stages from the same reward models, while the samples P stay those of the policy at the preset's coefficient.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlp_engine.config.load import create_run, load_preset, load_run, set_values
from rlp_engine.config.schema import RunConfig, value_of
from rlp_engine.errors import ConfigError
from rlp_engine.run.fingerprint import changes, section_values, without
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.plan import SAFE_KEYS
from rlp_engine.stages.spec import StageSpec
from rlp_engine.study.request import KL_COEFFICIENT, Request

LONGEST_VALUE = 48  # characters of a folder's name that a value may take
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]+")
_PER_RUN = frozenset({"seed", "sandbox.seed", "methods", "preset", "curve.kl_coefficients"})


@dataclass(frozen=True)
class StudyRun:
    """One run of a study."""

    seed: int
    sets: tuple[str, ...]  # KEY=VALUE, all that it has beside the preset
    key: str = ""  # the swept key; "" = as the preset
    value: Any = None

    @property
    def variant(self) -> str:
        """ "" or "refine_rm.multi_view.weight=0.1": what tables call the runs of this value."""
        return f"{self.key}={_text(self.value)}" if self.key else ""

    @property
    def name(self) -> str:
        """Its folder: only characters that every file system and shell takes; what was replaced is told apart."""
        if not self.key:
            return f"seed-{self.seed}"
        value = _text(self.value)
        safe = _UNSAFE.sub("_", value)[:LONGEST_VALUE]
        if safe != value:
            safe += "-" + hashlib.sha256(value.encode()).hexdigest()[:6]
        return f"seed-{self.seed}--{self.key}={safe}"


def base_config(preset: str, sets: Mapping[str, Any] | None = None) -> RunConfig:
    """The preset with what holds for every run."""
    return load_preset(preset, _words(sets or {}), refuse_missing=False).config


def runs_of(request: Request) -> list[StudyRun]:
    """All runs of a study: seed by seed, the preset first, since the others take its stages.

    Raises:
        ConfigError: a key or a value that no run can have; before any is made.
    """
    base = base_config(request.preset, request.sets)
    has_worlds = base.data.source == "sandbox" and not request.same_world
    if has_worlds and "sandbox.seed" in request.sets:
        what = "sandbox.seed is set for every run, and each seed has a world of its own"
        raise ConfigError(what, where="--set sandbox.seed", mend="add --same-world to keep that world for all seeds")
    common = _words(request.sets) + _words({"methods": list(request.methods)})
    if values := request.sweep.get(KL_COEFFICIENT):
        common += _words({"curve.kl_coefficients": list(values)})
    runs = []
    for seed in request.seeds:
        words = common + _words({"seed": seed} | ({"sandbox.seed": seed} if has_worlds else {}))
        runs.append(StudyRun(seed, tuple(words)))
        for key, swept in request.sweep.items():
            runs += [
                StudyRun(seed, (*words, *_words({key: value})), key, value)
                for value in swept
                if key != KL_COEFFICIENT and not _is_the_presets(base, key, value)
            ]
    for run in runs[: len(runs) // len(request.seeds)]:  # the other seeds differ in the seed alone
        load_preset(request.preset, run.sets, refuse_missing=False)
    names = [run.name for run in runs]
    assert len(set(names)) == len(names), f"two runs of one name: {names}"
    return runs


def _is_the_presets(base: RunConfig, key: str, value: Any) -> bool:
    try:
        return bool(value_of(base, key) == value)
    except AttributeError:  # no such key: loading the run says so, with the nearest name
        return False


def make_run(study_dir: Path, request: Request, run: StudyRun) -> bool:
    """Create the run directory, or give an existing one the methods and the curve of the request.

    Returns:
        Whether anything was written.
    """
    run_dir = study_dir / run.name
    if not (run_dir / "run.toml").is_file():
        create_run(run_dir, request.preset, run.sets, refuse_missing=False)
        return True
    before = load_run(run_dir, check_files=False).config
    wanted = {"methods": list(request.methods)}
    if KL_COEFFICIENT in request.sweep:
        wanted["curve.kl_coefficients"] = list(request.sweep[KL_COEFFICIENT])
    different = {key: value for key, value in wanted.items() if list(value_of(before, key)) != value}
    if different:
        set_values(run_dir, _words(different), refuse_missing=False)
    return bool(different)


def check_runs(study_dir: Path, request: Request, runs: Sequence[StudyRun]) -> None:
    """The run directories that are there already are still runs of this study, and of one preset.

    Raises:
        ConfigError: naming the keys in which one is not: somebody edited run.toml, or the preset is another by now.
    """
    for run in runs:
        if not (study_dir / run.name / "run.toml").is_file():
            continue
        wanted = load_preset(request.preset, run.sets, check_files=False).config
        found = load_run(study_dir / run.name, check_files=False).config
        different = changes(_comparable(wanted), _comparable(found))
        if different:
            raise ConfigError(
                f"{run.name} is not what the study asks for: {'; '.join(different[:3])}",
                where=str(study_dir / run.name / "run.toml"),
                mend="set these keys back, move the run out of the study, or choose another folder",
            )


def _comparable(config: RunConfig) -> dict[str, Any]:
    return without(config.model_dump(mode="json"), SAFE_KEYS | (_PER_RUN - {"seed", "sandbox.seed"}))


def shared_stages(base: RunConfig, other: RunConfig) -> set[str]:
    """Stages of `other` that `base` makes alike: the same constants and keys, all the way up. Known before any runs."""
    before = {spec.name: spec for spec in build_pipeline(base)}
    shared: set[str] = set()
    for spec in build_pipeline(other):
        twin = before.get(spec.name)
        alike = twin is not None and _facts(twin, base) == _facts(spec, other)
        if alike and all(item.stage in shared for item in spec.inputs if item.stage):
            shared.add(spec.name)
    return shared


def _facts(spec: StageSpec, config: RunConfig) -> Any:
    return spec.version, dict(spec.params), spec.inputs, without(section_values(config, spec.sections), SAFE_KEYS)


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
