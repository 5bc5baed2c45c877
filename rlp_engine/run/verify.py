"""Does a run still hold what its stages made? `rlp status --verify`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rlp_engine.run.attempt import complete, corrupt
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.manifest import content_problems


def verify(run_dir: Path, names: Iterable[str]) -> int:
    """Read every output of these stages, as far as they are complete, and compare its sha256 with stage.json.

    Returns:
        How many files were read.

    Raises:
        CorruptArtifactError: names the first damaged file, and the stage that makes it again.
    """
    layout, count = RunLayout(run_dir), 0
    for name in names:
        found = complete(layout, name)
        if found is None:
            continue
        problems = content_problems(found.folder, found.manifest.outputs)
        if problems:
            raise corrupt(layout, name, found.folder, problems)
        count += len(found.manifest.outputs)
    return count
