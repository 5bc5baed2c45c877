"""Six small real stages, to see the run directory at work without a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlp_engine.config.schema import RunConfig
from rlp_engine.run.atomic import write_bytes, write_json, write_text
from rlp_engine.run.events import EventLog, MetricsLog
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.runner import execute
from rlp_engine.stages.spec import StageContext, StageInput, StageSpec

STEPS = 6


def read(context: StageContext) -> dict[str, Any]:
    rows = Path(context.inputs["rows"]).read_text().split()
    write_text(context.out / "rows.txt", "\n".join(sorted(rows)))
    return {"rows": len(rows)}


def train(context: StageContext) -> dict[str, Any]:
    """Steps with a checkpoint after each; the result depends on every step and on the seed."""
    state_file = context.out / "checkpoints" / "state.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {"step": 0, "sum": context.config.seed}
    state_file.parent.mkdir(exist_ok=True)
    log = MetricsLog(context.out / "metrics.jsonl")
    log.cut_to(state["step"])
    for step in range(state["step"] + 1, STEPS + 1):
        state = {"step": step, "sum": (state["sum"] * 31 + step) % 1_000_003}
        log.append(step, {"sum": state["sum"], "seconds": 0.1})
        write_json(state_file, state)
        context.reporter.step(context.spec.name, step, STEPS, {"sum": state["sum"]}, 0.1)
        time.sleep(float(os.environ.get("SMALL_PAUSE", "0")))
        context.stop.check(f"after step {step}")
    (context.out / "model").mkdir(exist_ok=True)
    write_bytes(context.out / "model" / "weights.bin", str(state["sum"]).encode() * 10)
    write_json(context.out / "model" / "config.json", {"epochs": context.config.sft.epochs})
    return {"sum": state["sum"]}


def pairs(context: StageContext) -> dict[str, Any]:
    weights = (Path(context.inputs["model"]) / "weights.bin").read_bytes()
    rows = Path(context.inputs["rows"]).read_text().split()
    write_text(context.out / "pairs.jsonl", f"{context.config.synthesize.min_confidence} {weights} {rows}\n")
    return {"kept": len(rows)}


def policy(context: StageContext) -> dict[str, Any]:
    text = "".join(_all_text(Path(path)) for path in context.inputs.values())
    (context.out / "model").mkdir(exist_ok=True)
    write_text(context.out / "model" / "weights.bin", f"{context.spec.params['method']}: {text}")
    write_text(context.out / "timing.txt", str(time.time()))
    return {"reward": 1.5, "undefined": float("nan")}


def evaluate(context: StageContext) -> dict[str, Any]:
    write_json(context.out / "results.json", {name: _all_text(Path(path)) for name, path in context.inputs.items()})
    return {}


def _all_text(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return "".join(file.read_text() for file in files)


def pipeline(data: Path) -> list[StageSpec]:
    """prepare -> sft -> synthesize -> two branches' ppo -> evaluate."""
    model = StageInput("model", stage="sft", path="model")
    rows = StageInput("rows", stage="prepare", path="rows.txt")
    synthetic = StageInput("pairs", stage="round-1/spg/synthesize", path="pairs.jsonl")
    policies = [StageInput(f"policy:{m}", stage=f"round-1/{m}/ppo", path="model") for m in ("spg", "uml")]
    return [
        _spec("prepare", "prepare", "read", (StageInput("rows", path=str(data)),), ("seed",)),
        _spec("sft", "sft", "train", (rows,), ("seed", "sft", "log")),
        _spec("round-1/spg/synthesize", "synthesize", "pairs", (model, rows), ("synthesize",)),
        _spec("round-1/spg/ppo", "ppo", "policy", (model, synthetic), ("ppo",), method="spg"),
        _spec("round-1/uml/ppo", "ppo", "policy", (model,), ("ppo",), method="uml"),
        _spec("evaluate", "evaluate", "evaluate", (*policies, rows), ("evaluate",)),
    ]


def _spec(
    name: str, kind: str, function: str, inputs: tuple[StageInput, ...], sections: tuple[str, ...], **params: Any
) -> StageSpec:
    return StageSpec(
        name=name,
        kind=kind,
        version=1,
        inputs=inputs,
        sections=sections,
        function=f"small_pipeline:{function}",
        params=params,
        wall_time=("timing.txt",),
    )


def config(**sections: dict[str, Any] | int) -> RunConfig:
    return RunConfig(**sections)


def outputs(run_dir: Path) -> dict[str, str]:
    """sha256 of everything that the complete stages list, by path: what must not depend on crashes."""
    found = {}
    for file in sorted(run_dir.rglob("stage.json")):
        if "superseded" not in file.parts and not file.parent.name.endswith(".partial"):
            for name, record in json.loads(file.read_text())["outputs"].items():
                found[f"{file.parent.relative_to(run_dir)}/{name}"] = record["sha256"]
    return found


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A real file system in memory at `folder`; the test is skipped where nobody may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a real process of its own; its exit status as os.waitpid reports it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def sigkill_at(point: int, folder: Path) -> None:
    """End this process by SIGKILL just before the `point`-th change of a file's name or content below `folder`."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "open", "shutil.rmtree"):
            return
        if event == "open" and not _is_for_writing(arguments):
            return
        if any(isinstance(part, (str, os.PathLike)) and str(part).startswith(str(folder)) for part in arguments):
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _is_for_writing(arguments: tuple) -> bool:
    _, mode, flags = arguments
    return any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))


class Lines(NullReporter):
    """Keeps what people would read."""

    def __init__(self):
        self.lines, self.warnings, self.started = [], [], []

    def line(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def stage_started(self, name, will, because):
        self.started.append((name, will, because))


def uninterrupted(tmp_path: Path, stages) -> dict[str, str]:
    folder = tmp_path / "uninterrupted"
    folder.mkdir()
    execute(folder, stages, config())
    return outputs(folder)


def events(run_dir: Path, *kinds: str) -> list[tuple[str, str]]:
    found = EventLog(run_dir / "events.jsonl").read()
    return [(event["event"], event.get("stage", "")) for event in found if event["event"] in kinds]


def with_function(stages, index, function):
    stages[index] = replace(
        stages[index], function=f"{function.__module__}:{function.__name__}", sections=("ppo", "generation")
    )
    return stages
