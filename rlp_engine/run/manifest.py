"""stage.json and attempt.json: what a complete stage is, and what an incomplete one was doing."""

from __future__ import annotations

import fnmatch
import functools
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run.atomic import fsync, is_temporary, write_json
from rlp_engine.run.events import parse_json
from rlp_engine.run.fingerprint import Work, sha256_of_file, sha256_of_json
from rlp_engine.run.layout import ATTEMPT_FILE, CHECKPOINTS, CONFIG_FILE, METRICS_FILE, STAGE_FILE

SCHEMA = 1
# Wall times, and what went wrong before it went well: not compared and not read downstream.
LOG_PATTERNS = (METRICS_FILE, "samples/step_*", "failed_step_*")
OTHER_CONTENT = "has other content than when it was made"
_OWN_FILES = {STAGE_FILE, ATTEMPT_FILE, CONFIG_FILE}
_NUMERIC_PACKAGES = ("torch", "transformers", "rlp")
_PACKAGES = ("rlp", "torch", "transformers", "accelerate", "peft", "datasets", "numpy", "pydantic", "safetensors")


@dataclass(frozen=True)
class FileRecord:
    """A file of a complete stage."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The content of stage.json. It is written last, so a folder that has one is whole."""

    name: str
    reason: str  # why it ran
    fingerprint: str
    work: Work
    outputs: dict[str, FileRecord]  # path below the stage's folder, with "/"
    logs: dict[str, FileRecord]
    summary: dict[str, Any]
    seed: int
    started: str
    finished: str
    seconds: float  # of all attempts that could tell
    peak_rss_bytes: int
    versions: dict[str, str]
    platform: dict[str, Any]
    attempts: int
    adopted_from: str = ""  # the run that made it, seen from this one: "../seed-42"; "" = this run did
    start_rss_bytes: int | None = None  # held when the stage began: libraries, and what earlier stages left behind
    notices: list[str] = field(default_factory=list)  # what a reader of the numbers should know
    peak_device_bytes: int | None = None  # of the accelerator's memory, as torch allocated it; None on a CPU

    def write(self, folder: Path) -> None:
        values = asdict(self)
        work = values.pop("work")
        write_json(folder / STAGE_FILE, {"schema": SCHEMA, "status": "done", **values, **work})

    def below(self, path: str) -> dict[str, FileRecord]:
        """The outputs that `path` (a file, a folder, or "" for all) stands for."""
        if not path:
            return self.outputs
        return {name: record for name, record in self.outputs.items() if name == path or name.startswith(f"{path}/")}

    def digest(self, path: str) -> str:
        """Of the content below `path`; "" if this stage made nothing of that name."""
        files = self.below(path)
        return sha256_of_json([[name, files[name].sha256] for name in sorted(files)]) if files else ""


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's stage.json, or None if there is none.

    Raises:
        CorruptArtifactError: it is there but is not what we write. Never guessed at.
    """
    path = folder / STAGE_FILE
    try:
        values = parse_json(path.read_bytes())
        if values.pop("schema") != SCHEMA:
            raise CorruptArtifactError("stage.json was written by another version of rlp", where=str(path))
        del values["status"]
        work = Work.from_json({key: values.pop(key) for key in ("version", "params", "config", "inputs")})
        for kind in ("outputs", "logs"):
            values[kind] = {_below(name): FileRecord(**record) for name, record in values[kind].items()}
            for record in values[kind].values():
                _check_types(record, _RECORD_TYPES)
        manifest = Manifest(work=work, **values)
        _check_types(manifest, _MANIFEST_TYPES)
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError("stage.json cannot be read", where=str(path), found=str(error)) from error


# Of what is shown or reckoned with; the rest is compared only.
_RECORD_TYPES = {"sha256": str, "bytes": int}
_ATTEMPT_TYPES = {"status": str, "message": str, "started": str, "seconds": (int, float), "world_sizes": list}
_MANIFEST_TYPES = {
    **dict.fromkeys(("name", "reason", "fingerprint", "started", "finished", "adopted_from"), str),
    **dict.fromkeys(("summary", "versions", "platform"), dict),
    "seconds": (int, float),
    "peak_rss_bytes": int,
    "notices": list,
}


def _check_types(record: Any, types: Mapping[str, Any]) -> None:
    """Raises TypeError naming the first field that is of another type."""
    for key, kind in types.items():
        if not isinstance(getattr(record, key), kind):
            raise TypeError(f"{key} is of another type than what we write")


def _below(name: str) -> str:
    """The name itself, when it cannot lead out of the stage's folder: an adopted stage is linked by these names."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no path below the stage's folder")
    return name


@dataclass(frozen=True)
class AttemptRecord:
    """The content of attempt.json, in NAME.partial from the first moment."""

    fingerprint: str
    status: str  # running, interrupted, failed
    message: str
    reason: str
    started: str  # of the first attempt
    pid: int
    host: str
    attempt: int  # 1 for the first
    seconds: float  # spent so far, as far as the attempts could tell
    versions: dict[str, str]
    work: Work
    world_sizes: list[int] = field(default_factory=lambda: [1])  # of the attempts, as they changed
    devices: list[str] = field(default_factory=list)  # the same; empty until the stage computes
    other_versions: list[str] = field(default_factory=list)  # `torch 2.12.0 -> 2.13.0`: changed between attempts

    def write(self, folder: Path) -> None:
        write_json(folder / ATTEMPT_FILE, asdict(self))


def read_attempt(folder: Path) -> AttemptRecord | None:
    """The folder's attempt.json; None if there is none or it is not one, as nothing can be continued then."""
    try:
        values = parse_json((folder / ATTEMPT_FILE).read_bytes())
        record = AttemptRecord(work=Work.from_json(values.pop("work")), **values)
        _check_types(record, _ATTEMPT_TYPES)
        return record
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class Contents:
    """What a finished attempt leaves to be recorded."""

    outputs: dict[str, FileRecord] = field(default_factory=dict)
    logs: dict[str, FileRecord] = field(default_factory=dict)


def record_contents(folder: Path, log_patterns: Iterable[str] = ()) -> Contents:
    """Hash every file and wait until it is on the disk."""
    patterns = (*LOG_PATTERNS, *log_patterns)
    contents = Contents()
    for name in sorted(_files(folder)):
        path = folder / name
        fsync(path)
        is_log = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        record = FileRecord(sha256_of_file(path), path.stat().st_size)
        (contents.logs if is_log else contents.outputs)[name] = record
    return contents


def _files(folder: Path) -> Iterator[str]:
    for directory, subfolders, files in os.walk(folder):
        relative = Path(directory).relative_to(folder)
        if directory == str(folder):
            subfolders[:] = [name for name in subfolders if name != CHECKPOINTS]
            files = [name for name in files if name not in _OWN_FILES]
        links = [name for name in (*subfolders, *files) if Path(directory, name).is_symlink()]
        assert not links, f"a stage must not leave links, they break when a run is copied: {directory}: {links}"
        yield from ((relative / name).as_posix() for name in files if not is_temporary(name))


def size_problems(folder: Path, files: Mapping[str, FileRecord]) -> list[str]:
    """What is wrong by a look at names and sizes: `model/a.bin is 12 bytes, was 40`. Cheap."""
    return [problem for name, record in files.items() if (problem := _size_problem(folder, name, record))]


def content_problems(folder: Path, files: Mapping[str, FileRecord]) -> list[str]:
    """`size_problems`, and of every file whose size agrees the content is read and hashed again."""
    problems = []
    for name, record in files.items():
        if problem := _size_problem(folder, name, record):
            problems.append(problem)
        elif sha256_of_file(folder / name) != record.sha256:
            problems.append(f"{name} {OTHER_CONTENT}")
    return problems


def _size_problem(folder: Path, name: str, record: FileRecord) -> str:
    try:
        size = (folder / name).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return f"{name} is missing"
    return "" if size == record.bytes else f"{name} is {size:,} bytes, was {record.bytes:,}"


def version_changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """`torch 2.12.0 -> 2.13.0` for every package whose numbers may differ from one version to the next."""
    return [
        f"{package} {then[package]} -> {now[package]}"
        for package in _NUMERIC_PACKAGES
        if package in then and package in now and then[package] != now[package]
    ]


@functools.cache
def current_versions() -> dict[str, str]:
    """Of Python and what decides numbers, by their metadata, so that nothing heavy is imported. Not to be changed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
