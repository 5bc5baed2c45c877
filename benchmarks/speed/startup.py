"""How long programs take to say something: help of every command, and what a run spends outside its stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed.clock import versions
from benchmarks.speed.run import Line, Say
from rlp_engine.errors import ResourceError

HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "matplotlib", "sklearn", "numpy", "pydantic")
PEER_COMMANDS = (("trl", "--help"), ("trl", "sft", "--help"))

LIST_COMMANDS = """
import json
from typer.main import get_command
from rlp_cli.app import app
def walk(group, path=()):
    for name, command in group.commands.items():
        yield [*path, name]
        if hasattr(command, "commands"):
            yield from walk(command, (*path, name))
print(json.dumps(list(walk(get_command(app)))))
"""
IMPORTS = """
import contextlib, io, json, sys
from rlp_cli.app import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
print(json.dumps(sorted(sys.modules)))
"""


def measure_startup(repeats: int, peers_python: Path | None, with_quickstart: bool, say: Say) -> list[Line]:
    """Lines of role "help", "imports" and "quickstart".

    Args:
        peers_python: None = without the peers' commands.
    """
    rlp = str(Path(sys.executable).parent / "rlp")
    own = [["--help"], *([*words, "--help"] for words in json.loads(_output([sys.executable, "-c", LIST_COMMANDS])))]
    programs = [("rlp", rlp, words) for words in own]
    if peers_python is not None:
        programs += [(name, str(peers_python.parent / name), list(words)) for name, *words in PEER_COMMANDS]
    lines = []
    for repeat in range(repeats):
        for side, program, words in programs:
            cpu, wall = child_seconds([program, *words])
            lines.append(
                {
                    "benchmark": "startup",
                    "case": "help",
                    "role": "help",
                    "side": side,
                    "command": " ".join([side, *words]),
                    "pair": repeat,
                    "cpu_seconds": cpu,
                    "wall_seconds": wall,
                    "versions": versions() if side == "rlp" else {},
                }
            )
    modules = json.loads(_output([sys.executable, "-c", IMPORTS, json.dumps(own)]))
    heavy = [name for name in HEAVY if name in modules]
    lines.append({"benchmark": "startup", "case": "help", "role": "imports", "side": "rlp", "heavy": heavy})
    slowest = max((line for line in lines if line["side"] == "rlp" and line["role"] == "help"), key=_cpu)
    say(f"startup: slowest {slowest['command']}: {slowest['cpu_seconds']:.2f} CPU-s; heavy imports: {heavy or 'none'}")
    if with_quickstart:
        lines.append(measure_quickstart(rlp))
        say(f"startup: quickstart {lines[-1]['wall_seconds']:.0f} s, outside {lines[-1]['outside_seconds']:.1f} s")
    return lines


def _cpu(line: Line) -> float:
    return line["cpu_seconds"]


def measure_quickstart(rlp: str) -> Line:
    """A whole quickstart in a temporary folder: wall seconds, and those that no stage.json accounts for."""
    with tempfile.TemporaryDirectory(prefix="rlp-speed-") as folder:
        _, wall = child_seconds([rlp, "run", "--preset", "quickstart", f"{folder}/run"])
        inside = stage_seconds(Path(folder) / "run")
    return {
        "benchmark": "startup",
        "case": "quickstart",
        "role": "quickstart",
        "side": "rlp",
        "wall_seconds": wall,
        "stage_seconds": inside,
        "outside_seconds": wall - inside,
        "versions": versions(),
    }


def stage_seconds(run_dir: Path) -> float:
    """Sum of the seconds in all stage.json of a run."""
    return sum(json.loads(path.read_text())["seconds"] for path in run_dir.rglob("stage.json"))


def child_seconds(command: list[str]) -> tuple[float, float]:
    """(CPU-seconds, wall seconds) of a program and its children.

    Raises:
        ResourceError: it failed.
    """
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after, wall = os.times(), time.perf_counter() - started
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-12:])
        raise ResourceError(f"{' '.join(command)} failed", found=tail, mend="see what it printed last")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, wall


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
