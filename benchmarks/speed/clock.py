"""What a measuring process knows: its job, its time, its memory. Imports nothing of rlp: peers use it too."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "trl", "rlp")


@dataclass
class Clock:
    """CPU time and wall time of named phases. On CUDA it waits for the device at both ends of a phase."""

    on_cuda: bool = False
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def now(self) -> tuple[float, float]:
        """(CPU-seconds of this process, wall seconds), all work on the device done."""
        if self.on_cuda:
            import torch

            torch.cuda.synchronize()
        return time.process_time(), time.perf_counter()

    def add(self, phase: str, start: tuple[float, float]) -> None:
        """Add the time since `start` (an earlier `now`) to a phase."""
        end = self.now()
        self.cpu[phase] += end[0] - start[0]
        self.wall[phase] += end[1] - start[1]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = self.now()
        try:
            yield
        finally:
            self.add(name, start)

    @contextmanager
    def watching(self, owner: Any, name: str, phase: str) -> Iterator[None]:
        """Add the time spent in the function `name` of a module or an object to a phase."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return function(*args, **kwargs)

        setattr(owner, name, call)
        try:
            yield
        finally:
            setattr(owner, name, function)

    def seconds(self, phase: str) -> float:
        """What counts of a phase: CPU-seconds, on CUDA wall seconds."""
        return (self.wall if self.on_cuda else self.cpu)[phase]

    def reset(self) -> None:
        """Forget the warm-up."""
        self.cpu.clear()
        self.wall.clear()


@dataclass(frozen=True)
class Job:
    """What one measuring process does. `batch` is the side's own batch size; all else is the same for both."""

    folder: Path  # models and work.json
    result: Path  # where the measurement goes
    device: str
    batch: Any
    settings: dict[str, Any]

    @property
    def work(self) -> dict[str, Any]:
        return json.loads((self.folder / "work.json").read_text())

    @property
    def clock(self) -> Clock:
        """A new clock for this device."""
        return Clock(on_cuda=self.device == "cuda")

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.device == "cuda" else "float32"

    def write(self, path: Path) -> None:
        path.write_text(
            json.dumps(
                {
                    "folder": str(self.folder),
                    "result": str(self.result),
                    "device": self.device,
                    "batch": self.batch,
                    "settings": self.settings,
                }
            )
        )


def read_job(path: str) -> Job:
    values = json.loads(Path(path).read_text())
    return Job(**values | {"folder": Path(values["folder"]), "result": Path(values["result"])})


def report(job: Job, clock: Clock, *, units: float, phase: str = "all", **extra: Any) -> None:
    """Write the measurement of `units` done in `phase`."""
    values = {
        "units": units,
        "cpu_seconds": clock.cpu[phase],
        "wall_seconds": clock.wall[phase],
        "phases_cpu_seconds": {name: seconds for name, seconds in clock.cpu.items() if name != phase},
        "phases_wall_seconds": {name: seconds for name, seconds in clock.wall.items() if name != phase},
        "peak_bytes": peak_bytes(job.device),
        "versions": versions(),
        **extra,
    }
    job.result.write_text(json.dumps(values))


def peak_bytes(device: str) -> int:
    """Most memory held by this process (VmHWM), libraries included; on CUDA that of the device's tensors."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system has no VmHWM in /proc/self/status: peak memory is measured on Linux only")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the other side's library
    return found


def one_thread() -> None:
    """One torch thread, before and after torch reads the environment."""
    import torch

    torch.set_num_threads(1)
    assert os.environ.get("OMP_NUM_THREADS") == "1", "started without OMP_NUM_THREADS=1"
