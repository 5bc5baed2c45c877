"""When is work the same work? Canonical JSON, digests of files, and the words for what changed.

A fingerprint covers the stage's own version and constants, the config keys that it may read (but the
safe ones) and the content of its inputs. Times, paths of the run and library versions are not in it, so a
copied run directory is as done as the original.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rlp_engine.run.atomic import remove_temporaries, write_json
from rlp_engine.run.events import parse_json

_ABSENT = object()
_FRESH_NS = 2_000_000_000  # a file changed within this time may change again within its time stamp's grain


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_of_json(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def section_values(config: BaseModel, sections: Sequence[str]) -> dict[str, Any]:
    """The resolved values of some sections as JSON-able data: {"seed": 42, "data": {"template": "alpaca"}}."""
    everything = config.model_dump(mode="json")
    chosen: dict[str, Any] = {}
    for section in sections:
        *parents, last = section.split(".")
        source, target = everything, chosen
        for parent in parents:
            source, target = source[parent], target.setdefault(parent, {})
        target[last] = source[last]
    return chosen


def safe_keys(model: type[BaseModel], prefix: str = "") -> frozenset[str]:
    """Dotted names of the keys that cannot change a result (`SAFE` in the schema): logging, saving."""
    found: set[str] = set()
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, Mapping) and extra.get("safe"):
            found.add(prefix + name)
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= safe_keys(info.annotation, f"{prefix}{name}.")
    return frozenset(found)


def without(values: Mapping[str, Any], keys: frozenset[str], prefix: str = "") -> dict[str, Any]:
    """The same nested values, less the dotted keys, and less the sections that are empty then."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if prefix + key in keys:
            continue
        if isinstance(value, Mapping) and value:
            value = without(value, keys, f"{prefix}{key}.")
            if not value:
                continue
        kept[key] = value
    return kept


def changes(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Every key whose value differs, in words: `synthesize.min_confidence: 0.5 -> 0.6`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            found += changes(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if old == new else [f"{prefix}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "(not set)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class InputDigest:
    """What a stage was given under one name."""

    stage: str  # "" = from outside the run
    path: str
    digest: str  # "" = not known yet: what makes it still has to run

    @property
    def label(self) -> str:
        return f"{self.stage}/{self.path}".rstrip("/") if self.stage else self.path


@dataclass(frozen=True)
class Work:
    """Everything that decides what a stage's outputs are, safe keys beside."""

    version: int
    params: dict[str, Any]
    config: dict[str, Any]  # resolved sections, with the safe keys
    inputs: dict[str, InputDigest]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Work:
        inputs = {name: InputDigest(**value) for name, value in values["inputs"].items()}
        return cls(values["version"], dict(values["params"]), dict(values["config"]), inputs)

    def fingerprint(self, safe: frozenset[str]) -> str:
        """sha256 as hex; "" while an input is not known."""
        if not all(item.digest for item in self.inputs.values()):
            return ""
        return sha256_of_json(
            {
                "version": self.version,
                "params": self.params,
                "config": without(self.config, safe),
                "inputs": {name: item.digest for name, item in self.inputs.items()},
            }
        )

    def differs_from(self, old: Work, safe: frozenset[str]) -> list[str]:
        """Why work done as `old` has to be done again, one reason each; an input not known yet is no reason here."""
        reasons = changes(without(old.config, safe), without(self.config, safe))
        reasons += changes(old.params, self.params, "constant")
        if old.version != self.version:
            reasons.append(f"the code of this stage changed (version {old.version} -> {self.version})")
        for name, item in self.inputs.items():
            before = old.inputs.get(name)
            if before is None:
                reasons.append(f"it reads {item.label}, which it did not read before")
            elif item.digest and before.digest != item.digest:
                reasons.append(f"its input {item.label} changed")
        reasons += [f"it no longer reads {old.inputs[name].label}" for name in old.inputs if name not in self.inputs]
        return reasons


class DigestCache:
    """sha256 of files that stages read, remembered by size, times and inode. Without `save` nothing is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            entries = parse_json(path.read_bytes())
        except (OSError, ValueError):  # no cache, or a broken one: hash again
            entries = {}
        self._entries: dict[str, list[Any]] = entries if isinstance(entries, dict) else {}

    def of(self, path: Path) -> str:
        """Digest of a file's content, or of a folder's files with their names (hidden ones left out).

        Raises:
            OSError: it is not there, or cannot be read.
        """
        path = path.absolute()
        if not path.is_dir():
            return self._file(path)
        return sha256_of_json([[str(file.relative_to(path)), self._file(file)] for file in _files_below(path)])

    def save(self) -> None:
        if self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            remove_temporaries(self._path.parent)
            write_json(self._path, self._entries)
            self._changed = False

    def _file(self, path: Path) -> str:
        before = _identity(path)
        known = self._entries.get(str(path))
        if isinstance(known, list) and len(known) == 2 and known[0] == before:
            return known[1]
        digest = sha256_of_file(path)
        is_settled = time.time_ns() - max(before[1], before[2]) > _FRESH_NS
        if is_settled and _identity(path) == before:
            self._entries[str(path)] = [before, digest]
            self._changed = True
        return digest


def _identity(path: Path) -> list[int]:
    """Size, times and inode. The change time is there because tools that copy restore the other one."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _files_below(folder: Path) -> Iterator[Path]:
    """Files in sorted order. Links are followed, as a hub cache is made of them; a loop of links is walked once."""
    seen: set[str] = set()
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(directory, name) for name in sorted(files) if not name.startswith("."))
