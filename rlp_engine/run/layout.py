"""Every path below a run directory, named once.

run.toml                  the only file meant to be edited
lock                      the one writer; gone when idle
events.jsonl              append only
logs/attempt_3/rank_0.log a folder a launch; logs/latest points to the newest
round-1/spg/ppo/          a stage that is complete (it has a stage.json)
round-1/spg/ppo.partial/  the same stage while it is worked on
superseded/               what a later run replaced; only `rlp clean` deletes it
.cache/digests.json       sha256 of files outside the run, by size and time; safe to delete
.cache/nli/               answers of NLI models; without them `synthesize` asks again
.cache/judge/             answers of annotators behind a server; without them they are paid for again
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

STAGE_FILE = "stage.json"
ATTEMPT_FILE = "attempt.json"
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
PARTIAL_SUFFIX = ".partial"

_PART = r"[a-z0-9](?:[a-z0-9+_-]|(?<=[0-9])\.(?=[0-9]))*"  # a dot only inside a number: ppo-kl0.05
_STAGE_NAME = re.compile(f"{_PART}(/{_PART})*")
_TAKEN = {"logs", "superseded"}


def utc_now() -> str:
    """Such as 2026-11-21T14:02:31.123Z: sorts as text, and reads the same everywhere."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class RunLayout:
    """Paths of one run. Absolute, so that a stage that changes directory still finds them."""

    run_dir: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_dir", Path(self.run_dir).absolute())

    @property
    def shown(self) -> str:
        """The run directory as people type it: from where they stand, when it is below."""
        here = Path.cwd()
        return str(self.run_dir.relative_to(here)) if self.run_dir.is_relative_to(here) else str(self.run_dir)

    @property
    def lock(self) -> Path:
        return self.run_dir / "lock"

    @property
    def events(self) -> Path:
        return self.run_dir / "events.jsonl"

    @property
    def logs(self) -> Path:
        return self.run_dir / "logs"

    @property
    def superseded(self) -> Path:
        return self.run_dir / "superseded"

    @property
    def cache(self) -> Path:
        return self.run_dir / ".cache"

    @property
    def digests(self) -> Path:
        return self.cache / "digests.json"

    @property
    def nli_answers(self) -> Path:
        return self.cache / "nli"

    @property
    def judge_answers(self) -> Path:
        return self.cache / "judge" / "answers.jsonl"

    @property
    def report(self) -> Path:
        return self.run_dir / "report.html"

    def stage(self, name: str) -> Path:
        """The folder of a complete stage."""
        return self.run_dir / check_stage_name(name)

    def partial(self, name: str) -> Path:
        """The folder of the same stage while it is worked on."""
        path = self.stage(name)
        return path.with_name(path.name + PARTIAL_SUFFIX)

    def new_superseded(self, name: str) -> Path:
        """A free place for what `name` (a stage, or a stage and `.partial`) leaves behind."""
        base = self.superseded / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        path, count = base, 1
        while path.exists():
            count += 1
            path = base.with_name(f"{base.name}-{count}")
        return path

    def attempt_logs(self, number: int) -> Path:
        """The logs of one launch."""
        return self.logs / f"attempt_{number}"

    def new_attempt(self) -> int:
        """Make the folder of logs of a new launch; two that begin at once get two."""
        while True:
            number = max((number for number, _ in self.attempts()), default=0) + 1
            try:
                self.attempt_logs(number).mkdir(parents=True)
            except FileExistsError:
                continue
            return number

    def attempts(self) -> list[tuple[int, Path]]:
        """(number, folder) of every launch so far, oldest first."""
        found = []
        for path in self.logs.glob("attempt_*"):
            number = path.name.removeprefix("attempt_")
            if number.isdigit():
                found.append((int(number), path))
        return sorted(found)


def check_stage_name(name: str) -> str:
    """The name itself. A stage's name becomes a path, so it must stay below the run directory."""
    assert _STAGE_NAME.fullmatch(name), f"not a stage name: {name!r}"
    assert name.split("/")[0] not in _TAKEN, f"{name!r} would live in a folder that the run uses"
    return name
