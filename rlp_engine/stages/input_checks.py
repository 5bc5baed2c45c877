"""Before a stage runs, and after: is what it reads what the plan has seen, and was it made by the same versions?"""

from __future__ import annotations

from pathlib import Path

from rlp_engine.errors import DataError
from rlp_engine.run.attempt import complete, corrupt
from rlp_engine.run.fingerprint import DigestCache
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.manifest import OTHER_CONTENT, current_versions, version_changes
from rlp_engine.stages.plan import PlannedStage
from rlp_engine.stages.spec import StageSpec, is_remote


def check_made(layout: RunLayout, digests: DigestCache, spec: StageSpec) -> None:
    """Nothing is built on an output that is not what its stage made; the plan has looked at sizes only.

    Read are files whose size, times and inode are not those of when they were read last.
    """
    for item in spec.inputs:
        found = complete(layout, item.stage) if item.stage else None
        for name, record in found.manifest.below(item.path).items() if found else ():
            if digests.of(found.folder / name) != record.sha256:
                raise corrupt(layout, item.stage, found.folder, [f"{name} {OTHER_CONTENT}"])


def check_sources(digests: DigestCache, stage: PlannedStage) -> None:
    """A file that changed while the stage read it would be recorded under the digest of its old content."""
    for item in stage.spec.inputs:
        if item.stage or is_remote(item.path):
            continue
        try:
            digest = digests.of(Path(item.path).expanduser())
        except OSError:  # gone, but what the stage read is what was hashed
            continue
        if digest != stage.work.inputs[item.name].digest:
            raise DataError(
                f"{item.path} changed while {stage.spec.name} read it",
                where=str(Path(item.path).expanduser().absolute()),
                mend="leave it as it is during the run, and run again",
            )


def other_versions(layout: RunLayout, spec: StageSpec) -> tuple[str, list[str]] | None:
    """The first stage that this one reads from and that was made with other numeric packages, and which they were."""
    now = current_versions()
    for item in spec.inputs:
        found = complete(layout, item.stage) if item.stage else None
        then = found.manifest.versions if found else {}
        other = version_changes(then, now)
        if other:
            return item.stage, other
    return None
