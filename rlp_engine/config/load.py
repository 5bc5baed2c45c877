"""From files and flags to one RunConfig: defaults < preset < run.toml < --set, and `fidelity` on top.

All problems are found at once, each with its file and line and, for a key nobody knows, the nearest
name. A run's run.toml is a copy of its preset's text, so a newer preset does not change a run that
exists; keys that run.toml leaves out are the preset's.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlp_engine.config.layers import (
    Layer,
    all_keys,
    at,
    defaults,
    file_layer,
    key_of,
    leaves,
    parse_sets,
    preset_layer,
    put,
    set_layer,
)
from rlp_engine.config.named_files import file_problems
from rlp_engine.config.outside import read_config_text, refuse_links_outside
from rlp_engine.config.presets import preset_path
from rlp_engine.config.problems import Problem, as_error, schema_problems
from rlp_engine.config.rules import ALPACAFARM, cross_field_problems
from rlp_engine.config.schema import RunConfig
from rlp_engine.config.toml_text import KeyPath, key_lines, with_values
from rlp_engine.errors import ConfigError, ResourceError

RUN_TOML = "run.toml"


@dataclass(frozen=True)
class Resolved:
    """A whole config and where each value came from ("default", "preset NAME", "run.toml", "--set", "fidelity")."""

    config: RunConfig
    sources: dict[str, str]  # dotted key -> source, every key of the schema
    missing: Mapping[str, ConfigError] = field(default_factory=dict)  # dotted key -> why what it names cannot be used


def load_run(
    run_dir: Path, sets: Sequence[str] = (), *, check_files: bool = True, refuse_missing: bool = True
) -> Resolved:
    """The config of a run directory.

    Args:
        run_dir: a directory with run.toml.
        sets: `KEY=VALUE` texts, on top of run.toml; nothing is written.
        check_files: also look whether every local file and model folder the config names is there.
        refuse_missing: a missing one is an error; otherwise it is in `Resolved.missing`, for who knows what is read.

    Raises:
        ConfigError: with every problem in `problems`.
    """
    run = file_layer(require_run(run_dir), RUN_TOML)
    name = run.values.get(("preset",), "")
    layers = [run, set_layer(sets)]
    if layers[1].values.get(("preset",), name) != name:
        mend = f"make another run: rlp run --preset {layers[1].values[('preset',)]} OTHER_DIR"
        raise ConfigError("the preset of a run cannot be changed", where="--set preset", mend=mend)
    if name:
        layers.insert(0, preset_layer(name, where=run.place(("preset",))))
    return _resolve(layers, run_dir=str(run_dir), check_files=check_files, refuse_missing=refuse_missing)


def require_run(run_dir: Path) -> Path:
    """The run.toml of a run directory.

    Raises:
        ConfigError: when it is not one, or a link in it leads out of it.
    """
    path = Path(run_dir) / RUN_TOML
    if not path.is_file():
        mend = f"make one: rlp run --preset NAME {run_dir}   (names: rlp presets)"
        raise ConfigError(f"{run_dir} is not a run directory: it holds no {RUN_TOML}", mend=mend)
    refuse_links_outside(Path(run_dir), editable=RUN_TOML)
    return path


def load_preset(
    name: str, sets: Sequence[str] = (), *, check_files: bool = True, refuse_missing: bool = True
) -> Resolved:
    """The config a new run of this preset would have; the arguments are those of `load_run`."""
    layers = [preset_layer(name), Layer("preset " + name, {("preset",): name}), set_layer(sets)]
    shown = f"--preset {name}"
    return _resolve(layers, run_dir=shown, check_files=check_files, refuse_missing=refuse_missing)


def create_run(run_dir: Path, preset: str, sets: Sequence[str] = (), *, refuse_missing: bool = True) -> Resolved:
    """Make a run directory with an editable run.toml, the preset's text with `sets` applied.

    Raises:
        ConfigError: when the config is not sound, or the directory holds something already or cannot be made.
        ResourceError: the disk is full.
    """
    run_dir = Path(run_dir)
    resolved = load_preset(preset, sets, refuse_missing=refuse_missing)
    require_new(run_dir)
    text = run_toml_text(preset, sets)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _replace(run_dir / RUN_TOML, text)
    except OSError as error:
        what = f"cannot create the run directory {run_dir}"
        raise ConfigError(what, found=error.strerror or str(error), mend="choose another folder") from error
    return resolved


def require_new(run_dir: Path) -> None:
    """A run can be created here.

    Raises:
        ConfigError: when something stands there already.
    """
    if run_dir.exists() and (not run_dir.is_dir() or any(not _is_partial(path) for path in run_dir.iterdir())):
        is_run = (run_dir / RUN_TOML).is_file()
        mend = f"go on with it: rlp run {run_dir}" if is_run else "choose a folder that is empty or not there yet"
        raise ConfigError(f"{run_dir} holds {'a run' if is_run else 'other files'} already", mend=mend)


def run_toml_text(preset: str, sets: Sequence[str] = ()) -> str:
    """The text `create_run` writes."""
    text = preset_path(preset).read_text(encoding="utf-8")
    changes = {("preset",): preset, **parse_sets(sets)}
    if ("preset",) not in key_lines(text):
        text = _after_head_comment(text, f'preset = "{preset}"')
        del changes[("preset",)]
    return with_values(text, changes)


def set_values(run_dir: Path, sets: Sequence[str], *, refuse_missing: bool = True) -> Resolved:
    """Change keys of run.toml, comments and all else kept. Nothing is written unless the whole config is sound."""
    resolved = load_run(run_dir, sets, refuse_missing=refuse_missing)
    path = Path(run_dir) / RUN_TOML
    old = read_config_text(path)
    new = with_values(old, parse_sets(sets))
    if new != old:
        try:
            _replace(path, new)
        except OSError as error:
            where, mend = f"{path}: {error.strerror}", "make it writable, or copy the run to where you may write"
            raise ResourceError("cannot write run.toml", where=where, mend=mend) from error
    return resolved


def _after_head_comment(text: str, line: str) -> str:
    lines = text.splitlines()
    head = next((i for i, old in enumerate(lines) if not old.startswith("#")), len(lines))
    gap = [""] if head else []
    return "\n".join([*lines[:head], *gap, line, *lines[head:]]) + "\n"


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: run.toml is the one file that cannot be made again. Raises ResourceError on a full disk."""
    for leftover in filter(_is_partial, path.parent.iterdir()):  # of a process that was killed here
        leftover.unlink()
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{path}: it needs {len(text.encode()):,} bytes"
        raise ResourceError("no space left on the disk", where=where, mend="free some space, then run again") from error


def _is_partial(path: Path) -> bool:
    """Was `_replace` still writing this?"""
    return path.name.startswith(f".{RUN_TOML}.") and path.name.endswith(".tmp")


def _resolve(layers: Sequence[Layer], *, run_dir: str, check_files: bool, refuse_missing: bool) -> Resolved:
    """`run_dir` is the run as `rlp config show` wants it named."""
    merged = defaults()
    sources = {".".join(path): "default" for path, _ in leaves(merged, merged)}
    places: dict[KeyPath, str] = {}
    for layer in layers:
        for path, value in layer.values.items():
            unchanged = layer.source == RUN_TOML and path in places and at(merged, path) == value
            put(merged, path, value)
            places[path] = layer.place(path)
            if not unchanged:  # run.toml repeats its preset: what nobody changed is still the preset's
                sources[key_of(path, sources)] = layer.source
    problems: list[Problem] = []
    bad: set[str] = set()
    while found := schema_problems(merged, run_dir):  # pydantic skips a table's own rules while a key of it is bad
        problems += found
        bad |= {problem.keys[0] for problem in found}
        merged = _without(merged, {problem.path for problem in found})
    problems += _apply_fidelity(merged, sources)
    config = RunConfig.model_validate_json(json.dumps(merged), strict=True)
    problems += [problem for problem in cross_field_problems(config) if not _concerns(problem, bad)]
    files = file_problems(config) if check_files else []
    missing = {problem.keys[0]: problem for problem in files if not _concerns(problem, bad)}
    if problems or (missing and refuse_missing):
        raise as_error([*problems, *missing.values()], places, run_dir)
    errors = {key: as_error([problem], places, run_dir) for key, problem in missing.items()}
    return Resolved(config, {key: sources[key] for key in all_keys()}, errors)


def _without(merged: dict[str, Any], bad: set[KeyPath]) -> dict[str, Any]:
    """The config with its bad keys back at their defaults, so that the rules between the others can be checked."""
    good = json.loads(json.dumps(merged, default=str))
    schema = defaults()
    for path in bad:
        default = at(schema, path)
        put(good, path, default)
        if default is None:
            parent = at(good, path[:-1]) if len(path) > 1 else good
            del parent[path[-1]]
    return good


def _concerns(problem: Problem, bad: set[str]) -> bool:
    return any(
        key == name or key.startswith(name + ".") or name.startswith(key + ".") for key in problem.keys for name in bad
    )


def _apply_fidelity(merged: dict[str, Any], sources: dict[str, str]) -> list[Problem]:
    """Put AlpacaFarm's values in, unless someone asked for others by name: that contradicts, and is said."""
    if merged.get("fidelity") != "alpacafarm":
        return []
    problems = []
    for key, value in ALPACAFARM.items():
        path = tuple(key.split("."))
        asked = sources[key] in (RUN_TOML, "--set")
        if asked and at(merged, path) != value:
            what = f"{key} = {at(merged, path)!r} contradicts fidelity = 'alpacafarm', which makes it {value!r}"
            problems.append(Problem((key, "fidelity"), what, f"remove {key}, or set fidelity = 'ours'"))
        elif at(merged, path) != value:
            put(merged, path, value)
            sources[key] = "fidelity"
    return problems
