"""Does a run still hold what its stages made? `rlp status --verify`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run.attempt import complete, corrupt
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.manifest import content_problems


@dataclass(frozen=True)
class Damage:
    """What is wrong with one output of a stage, or with its stage.json."""

    stage: str
    problem: str  # "model/a.bin is missing"
    error: CorruptArtifactError  # the stage's


@dataclass(frozen=True)
class Verified:
    """What was read, and everything in it that is not what stage.json recorded, in the order of the stages."""

    files: int
    damage: list[Damage]

    def error(self, run_dir: Path) -> CorruptArtifactError | None:
        """One error for all of it, with every stage to make again; None when nothing is damaged."""
        stages = list(dict.fromkeys(one.stage for one in self.damage))
        if len(stages) <= 1:
            return self.damage[0].error if stages else None
        force = " ".join(f"--force {stage}" for stage in stages)
        return CorruptArtifactError(
            f"{len(self.damage)} outputs of {len(stages)} stages are damaged: {', '.join(stages)}",
            where=str(run_dir),
            mend=f"put the files back, or make them again: rlp run {RunLayout(run_dir).shown} {force}",
        )


def verify(run_dir: Path, names: Iterable[str]) -> Verified:
    """Read every output of these stages, as far as they are complete, and compare its sha256 with stage.json."""
    layout, count, damage = RunLayout(run_dir), 0, []
    for name in names:
        try:
            found = complete(layout, name)
        except CorruptArtifactError as error:
            damage.append(Damage(name, error.what, error))
            continue
        if found is None:
            continue
        problems = content_problems(found.folder, found.manifest.outputs)
        count += len(found.manifest.outputs)
        if problems:
            error = corrupt(layout, name, found.folder, problems)
            damage += [Damage(name, problem, error) for problem in problems]
    return Verified(count, damage)


def require_whole(run_dir: Path, name: str) -> None:
    """Raises CorruptArtifactError when an output of this stage is not what its stage.json recorded."""
    if error := verify(run_dir, [name]).error(run_dir):
        raise error
