"""Measurements in fresh processes, ours and the peer's in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.clock import Job
from benchmarks.speed.roofline import figures
from benchmarks.speed.shapes import PEERS, SHAPES, UNITS, Case
from benchmarks.speed.workload import draw
from rlp_engine.errors import ConfigError, HealthError, ResourceError

ROOT = Path(__file__).resolve().parents[2]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
PEERS_VARIABLE = "RLP_PEERS_PYTHON"
Line = dict[str, Any]
Say = Callable[[str], None]


class MissingPeers(ConfigError):
    """The other side is not installed: how the command was called must change, so its exit code is that of usage."""

    exit_code = 2


@dataclass(frozen=True)
class Plan:
    """How a case is measured.

    `sides`: "ours", "peer" or both. `ours_batch`, `peer_batch`: None = look for each side's best first.
    """

    peers_python: Path
    repeats: int = 3
    device: str = "cpu"
    sides: tuple[str, ...] = ("ours", "peer")
    ours_batch: Any = None
    peer_batch: Any = None


def peers_python(given: Path | None) -> Path:
    """The Python that has the peers: --peers, the variable RLP_PEERS_PYTHON, or .venv-peers.

    Raises:
        MissingPeers: if there is none, or TRL is not in it.
    """
    python = given or Path(os.environ.get(PEERS_VARIABLE) or PEERS_PYTHON)
    mend = f"make bench-peers, or name a Python that has them: --peers PYTHON or {PEERS_VARIABLE}"
    if not python.is_file():
        raise MissingPeers("the peers (TRL, transformers) are not installed", where=str(python), mend=mend)
    probe = "import importlib.metadata as m; print(m.version('trl'))"
    done = subprocess.run([python, "-c", probe], capture_output=True, text=True)
    if done.returncode:
        raise MissingPeers(
            "this Python has no TRL", where=str(python), found=(done.stderr.splitlines() or [""])[-1], mend=mend
        )
    return python


def measure_case(case: Case, plan: Plan, say: Say) -> list[Line]:
    """All measurements of a case: the search for each side's best batch, then pairs in the order A B A B.

    The models lie in a temporary folder while it runs.
    """
    with tempfile.TemporaryDirectory(prefix="rlp-speed-") as folder:
        _prepare(case, Path(folder), plan.device)
        candidates = {"ours": case.ours, "peer": case.peer}
        fixed = {"ours": plan.ours_batch, "peer": plan.peer_batch}
        lines: list[Line] = []
        best: dict[str, Any] = {}
        for side in plan.sides:
            batches = candidates[side] if fixed[side] is None else (fixed[side],)
            found = [_one(case, side, b, plan, Path(folder), "search", 0, say) for b in batches if len(batches) > 1]
            lines += found
            best[side] = max(found, key=lambda line: line["rate"])["batch"] if found else batches[0]
        for pair in range(plan.repeats):
            lines += [_one(case, side, best[side], plan, Path(folder), "pair", pair, say) for side in plan.sides]
    _same_clusters(lines)
    if case.benchmark != "clustering":
        printed = _run([sys.executable, "-m", "benchmarks.speed.machine", plan.device], "measuring the machine")
        machine = json.loads(printed)
        lines = [line | figures(line, SHAPES[case.size], machine) for line in lines]
    return lines


def _same_clusters(lines: list[Line]) -> None:
    """Clusterings are compared and then left out of the results.

    Raises:
        HealthError: two measurements of a case found different clusters.
    """
    found = [line.pop("clusters") for line in lines if "clusters" in line]
    if any(one != found[0] for one in found):
        raise HealthError("two measurements found different clusters", mend="their times cannot be compared: a bug")


def _prepare(case: Case, folder: Path, device: str) -> None:
    """Write the models (in a process of its own, so that this one stays light) and the work."""
    if case.benchmark == "clustering":
        script = ["benchmarks.speed.ours.clustering", "--prepare", str(folder), json.dumps(case.settings)]
        _run([sys.executable, "-m", *script], "preparing the clustering texts")
        return
    shape = SHAPES[case.size]
    (folder / "work.json").write_text(json.dumps(draw(case.benchmark, case.settings, shape.vocab_size)))
    mean = case.settings.get("mean_answer", 32)
    dtype = "bfloat16" if device == "cuda" else "float32"
    script = ["benchmarks.speed.build", str(folder), case.size, str(mean), device, dtype]
    _run([sys.executable, "-m", *script], f"building {case.size}")


def _one(case: Case, side: str, batch: Any, plan: Plan, folder: Path, role: str, pair: int, say: Say) -> Line:
    """One measurement in a fresh process."""
    job_file, result = folder / "job.json", folder / "result.json"
    result.unlink(missing_ok=True)
    Job(folder, result, plan.device, batch, case.settings).write(job_file)
    python: Path | str = sys.executable
    package = "ours"
    if side == "peer" and case.benchmark != "clustering":  # the naive walk is no other library
        python, package = plan.peers_python, "peers"
    module = "naive" if case.benchmark == "clustering" and side == "peer" else case.benchmark
    _run([str(python), "-m", f"benchmarks.speed.{package}.{module}", str(job_file)], f"{case.name}, {side}, {batch}")
    measured = json.loads(result.read_text())
    seconds = measured["wall_seconds" if plan.device == "cuda" else "cpu_seconds"]
    line = {
        "benchmark": case.benchmark,
        "case": case.name,
        "size": case.size,
        "side": side,
        "name": "rlp" if side == "ours" else PEERS[case.benchmark],
        "role": role,
        "pair": pair,
        "batch": batch,
        "unit": UNITS[case.benchmark],
        "rate": measured["units"] / seconds,
        **measured,
        "settings": case.settings,
        "model": SHAPES[case.size].as_json() if case.benchmark != "clustering" else {},
        "device": plan.device,
        "dtype": "bfloat16" if plan.device == "cuda" else "float32",
        "threads": 1,
    }
    say(
        f"{case.benchmark}, {case.name}: {line['name']} {role} {pair + 1}, batch {batch}: "
        f"{line['rate']:.4g} {line['unit']} a second, peak {line['peak_bytes'] / 2**20:,.0f} MiB"
    )
    return line


def _run(command: list[str], doing: str) -> str:
    """What a child with one thread prints.

    Raises:
        ResourceError: it failed.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-12:])
        raise ResourceError(
            f"a measurement failed ({doing}), exit code {done.returncode}", found=tail, mend="see what it printed last"
        )
    return done.stdout


def results_file(out: Path, benchmark: str) -> Path:
    return out / f"speed-{benchmark}.jsonl"


def write_lines(out: Path, benchmark: str, lines: list[Line]) -> None:
    """Take the place of earlier lines of the same cases; other cases' lines stay."""
    path = results_file(out, benchmark)
    cases = {line["case"] for line in lines}
    kept = [line for line in read_lines(path) if line["case"] not in cases] if path.exists() else []
    out.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in kept + lines))


def read_lines(path: Path) -> Iterator[Line]:
    """The measurements of a file.

    Raises:
        ConfigError: a line is no JSON object.
    """
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ConfigError(
                "a result is not JSON", where=f"{path}:{number}", mend="measure that case again"
            ) from error
        yield line
