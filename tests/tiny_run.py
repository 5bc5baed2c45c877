"""The real command line on a tiny run, and what is read from its run directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
RLP = [str(Path(sys.executable).with_name("rlp"))]
TIMEOUT_SECONDS = 120

# Every number is chosen for speed; nothing is learned that a result could be read from.
TINY = {
    "sandbox.facts": 12,
    "sandbox.preference_facts": 6,
    "sandbox.demonstrations_per_form": 3,
    "model.scratch.hidden_size": 32,
    "model.scratch.num_layers": 1,
    "model.scratch.num_heads": 2,
    "model.scratch.intermediate_size": 48,
    "generation.max_new_tokens": 12,
    "sft.epochs": 3,
    "collect.pairs_per_instruction": 4,
    "train_rm.held_out": 12,
    "train_rm.epochs": 1,
    "refine_rm.epochs": 1,
    "refine_rm.multi_view.warmup_steps": 4,
    "refine_rm.multi_view.hidden_size": 16,
    "refine_rm.multi_view.latent_size": 8,
    "ppo.steps": 6,
    "ppo.rollout_batch": 16,
    "ppo.minibatch": 8,
    "ppo.microbatch": 8,
    "sample.num_per_prompt": 5,
    "sample.shard_prompts": 16,
    "synthesize.min_confidence": 0.2,
    "evaluate.best_of_n": 3,
    "evaluate.samples_per_prompt": 2,
    "checkpoint.every_steps": 2,
}


def rlp(*words: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line and insist on its exit code."""
    done = subprocess.run(
        [*RLP, *map(str, words)], capture_output=True, text=True, env=rlp_environment(**environment), check=False
    )
    assert done.returncode == code, f"exit {done.returncode}, wanted {code}\n{done.stdout}\n{done.stderr}"
    return done


def rlp_environment(**environment: str) -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | environment


def start_and_signal(run_dir: Path, stage: str, marker: str, number: int, *words: str) -> subprocess.Popen[str]:
    """Start the stage, send the signal once its partial folder holds `marker`, and wait for the process to end."""
    process = subprocess.Popen(
        [*RLP, "run", str(run_dir), "--only", stage, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=rlp_environment(),
    )
    path = run_dir / f"{stage}.partial" / marker
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not path.exists():
        assert process.poll() is None, f"{stage} ended before it made {marker}:\n{process.communicate()[0]}"
        assert time.monotonic() < deadline, f"{stage} never made {marker}"
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(TIMEOUT_SECONDS)
    return process


def sets(values: dict[str, object]) -> list[str]:
    """--set words for the command line."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def outputs(run_dir: Path, stages: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """stage -> path -> sha256, as its stage.json lists them."""
    found = {}
    for file in sorted(run_dir.rglob("stage.json")):
        name = file.parent.relative_to(run_dir).as_posix()
        if name.startswith("superseded") or (stages and name not in stages):
            continue
        found[name] = {path: row["sha256"] for path, row in json.loads(file.read_text())["outputs"].items()}
    return found


def metrics(run_dir: Path, stage: str) -> list[dict[str, float]]:
    """metrics.jsonl without its wall times."""
    return [
        {key: value for key, value in row.items() if not key.endswith("seconds")}
        for row in rows(run_dir / stage / "metrics.jsonl")
    ]


def rows(path: Path) -> list[dict]:
    """Of a file with one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, lines: list[dict]) -> str:
    """The other way; the path as text."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def recorded(run_dir: Path, stage: str) -> dict:
    """Its stage.json."""
    return json.loads((run_dir / stage / "stage.json").read_text())
