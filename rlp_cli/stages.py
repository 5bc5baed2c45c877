"""From what a user calls a stage to the stages of the run's pipeline."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    from rlp_engine.config.load import Resolved
    from rlp_engine.stages.spec import StageSpec


def load_pipeline(
    run_dir: Path, sets: Sequence[str] = (), *, check_files: bool = False
) -> tuple[Resolved, list[StageSpec]]:
    """The config of a run and the stages it asks for."""
    from rlp_engine.config.load import load_run
    from rlp_engine.stages.pipeline import build_pipeline

    resolved = load_run(run_dir, sets, check_files=check_files)
    return resolved, build_pipeline(resolved.config)


def one_stage(name: str, pipeline: Sequence[StageSpec]) -> StageSpec:
    """The stage of this name; the end of a name is enough where it is the end of one only (`spg/ppo`).

    Raises:
        ConfigError: naming the stages there are.
    """
    name = name.strip("/")
    exact = [spec for spec in pipeline if spec.name == name]
    found = exact or [spec for spec in pipeline if spec.name.endswith(f"/{name}")]
    names = [spec.name for spec in found or pipeline]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"'{name}' is the end of {len(found)} stages", mend=f"name one: {', '.join(names)}")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?  " if near else ""
    raise ConfigError(f"this run has no stage '{name}'", mend=f"{hint}Its stages: {', '.join(names)}")
