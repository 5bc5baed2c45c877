"""What a stage is: a row of the table in `pipeline.py`, and what its function is handed when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from rlp_engine.config.local_paths import HUB_ID
from rlp_engine.run.events import EventLog
from rlp_engine.run.layout import RunLayout, check_stage_name
from rlp_engine.run.reporting import Reporter
from rlp_engine.run.signals import StopSignal

StageFunction = Callable[["StageContext"], dict[str, Any]]

_FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".gz", ".csv", ".txt", ".toml", ".safetensors", ".bin")


@dataclass(frozen=True)
class StageInput:
    """Something a stage reads."""

    name: str  # what the stage's function calls it: context.inputs["samples"]
    stage: str = ""  # the stage that makes it, "round-1/sample"; "" = it comes from outside the run
    path: str = ""  # below that stage's folder ("samples", "model"; "" = all of it), or a file, a folder, a hub id

    @property
    def label(self) -> str:
        """As people are told: `round-1/sample/samples`, or the path outside."""
        return f"{self.stage}/{self.path}".rstrip("/") if self.stage else self.path


@dataclass(frozen=True)
class StageSpec:
    """A row of the pipeline's table."""

    name: str  # "round-1/spg/ppo": also its folder below the run directory
    kind: str  # "ppo": the command that runs it
    version: int  # of the stage's own code; raise it when the same inputs give other outputs
    inputs: tuple[StageInput, ...]
    sections: tuple[str, ...]  # config keys it may read: "ppo", "seed"; dotted for a part of one: "data.template"
    function: str  # "rlp_engine.stages.ppo:run", imported only when it runs
    params: Mapping[str, Any] = field(default_factory=dict)  # JSON-able constants: {"round": 1, "method": "spg"}
    wall_time: tuple[str, ...] = ()  # files or patterns that hold times of day and are no result: listed as logs
    watched: tuple[StageInput, ...] = ()  # read too, but no output depends on them: in no fingerprint, and may be gone
    ranks: Literal["all", "leader"] = "leader"  # who runs the function under a launcher; the others wait

    def load(self) -> StageFunction:
        """Import the stage's module; this is where torch comes in."""
        module, _, attribute = self.function.partition(":")
        return getattr(import_module(module), attribute)


def _not_noted(device: str) -> None:
    """Of followers, whose leader's device is the stage's."""


@dataclass(frozen=True)
class StageContext:
    """All that a stage's function knows. It returns its headline numbers, JSON-able, for stage.json."""

    spec: StageSpec
    run_dir: Path
    out: Path  # NAME.partial: write here; it may hold what an interrupted attempt left
    inputs: Mapping[str, Path | str]  # name -> absolute path; str for what lives on the hub
    config: ConfigView
    events: EventLog  # events.jsonl, with the stage's name in every record
    reporter: Reporter
    stop: StopSignal
    on_device: Callable[[str], None] = _not_noted  # to be told where the stage computes, for stage.json


class ConfigView:
    """The config as one stage may see it: declared sections only, so that its fingerprint misses nothing."""

    def __init__(self, config: BaseModel, sections: Sequence[str], _prefix: str = "") -> None:
        self._config = config
        self._sections = tuple(sections)
        self._prefix = _prefix

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and inspect ask for such names; they want an AttributeError
            raise AttributeError(name)
        if name in self._sections:
            return getattr(self._config, name)
        below = [section.removeprefix(f"{name}.") for section in self._sections if section.startswith(f"{name}.")]
        if below:
            return ConfigView(getattr(self._config, name), below, f"{self._prefix}{name}.")
        raise AssertionError(f"this stage reads '{self._prefix}{name}' but does not declare it: {self._sections}")


def input_paths(layout: RunLayout, spec: StageSpec) -> dict[str, Path | str]:
    """Name of each input -> where it lies: an absolute path, or the hub's name as it is."""
    paths: dict[str, Path | str] = {}
    for item in (*spec.inputs, *spec.watched):
        if item.stage:
            paths[item.name] = layout.stage(item.stage) / item.path
        elif is_remote(item.path):
            paths[item.name] = item.path
        else:
            paths[item.name] = Path(item.path).expanduser().absolute()
    return paths


def is_by_server(spec: StageSpec) -> bool:
    """Does this stage ask servers for its answers? Only then it declares (and its fingerprint holds) their section."""
    return "generation.server" in spec.sections


def is_remote(path: str) -> bool:
    """Does an external path name the hub? `hub:` and `hf://` always; OWNER/NAME unless it exists here."""
    if path.startswith(("hub:", "hf://")):
        return True
    if Path(path).expanduser().exists() or path.endswith(_FILE_SUFFIXES):
        return False
    return HUB_ID.fullmatch(path) is not None


def check_pipeline(pipeline: Sequence[StageSpec]) -> None:
    """Assert what plan and runner rely on: names are unique paths, none inside another, inputs come first."""
    seen: set[str] = set()
    for spec in pipeline:
        check_stage_name(spec.name)
        assert spec.name not in seen, f"two stages are called {spec.name}"
        items = (*spec.inputs, *spec.watched)
        names = [item.name for item in items]
        assert len(names) == len(set(names)), f"{spec.name}: two inputs have one name"
        for item in items:
            assert item.stage in seen or not item.stage, f"{spec.name}: {item.stage} does not come before it"
            assert item.stage or item.path, f"{spec.name}: input {item.name} names neither a stage nor a path"
        seen.add(spec.name)
    for name in seen:
        parts = name.split("/")
        parents = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        assert not parents & seen, f"{name} lies inside the folder of another stage"
