"""Peak memory of sample, embed and synthesize at 10^4 and at 10^6 samples: it must not grow with them.

    python benchmarks/streaming_memory.py [--rows 10000,1000000] [--work DIR]

The stages' own functions run on a run directory of 1,000 or 100,000 prompts with 10 answers each, every stage in a
fresh process on one thread. The model is as small as can be (16 wide, one layer, answers of at most 4 tokens), since
its time and its memory are not the point; equivalence is `exact-match`. `sample` really draws its answers, and `embed`
and `synthesize` read them; 10^6 take about seven minutes of one core. Writes one JSON line a stage to
benchmarks/results/streaming-memory.jsonl and prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.data.rows import write_jsonl
from rlp_engine.randomness import uniforms
from rlp_engine.run.events import EventLog
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.manifest import current_versions
from rlp_engine.run.reporting import NullReporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.spec import ConfigView, StageContext

RESULTS = Path(__file__).parent / "results" / "streaming-memory.jsonl"
ANSWERS, WORDS, PROMPT_WORDS, PAIRS = 10, 24, 8, 3000
MODEL = ModelConfig(
    template="plain",
    scratch=ScratchConfig(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, init_std=0.3, tokenizer="word"
    ),
)
CONFIG = {
    "methods": ["spg"],
    "data": {"unlabeled": {"path": "unlabeled.jsonl"}},
    "model": MODEL,
    "compute": {"device": "cpu", "cpu_threads": 1},
    "generation": {"max_prompt_tokens": 16, "max_new_tokens": 4, "rows": 320},
    "collect": {"source": "file"},
    "sample": {"num_per_prompt": ANSWERS},
    "embed": {"microbatch": 256, "drift_samples": 1000},
    "synthesize": {"min_confidence": 0.0, "equivalence": {"kind": "exact-match"}},
}
STAGES = {  # stage -> the folders whose rows it is paid by
    "round-1/sample": ("answers", "sft_answers"),
    "round-1/embed": ("vectors",),
    "round-1/spg/synthesize": ("decisions.jsonl", "pairs.jsonl"),
}
PEAK_RATIO = 1.2  # asked: at most 20% more


def prompts(count: int) -> Iterator[Prompt]:
    for row in range(count):
        words = [f"w{int(draw * WORDS)}" for draw in uniforms(PROMPT_WORDS, "streaming-memory", row)]
        yield Prompt(f"row-{row:07d}", " ".join(words))


def build(run_dir: Path, count: int, pairs: int = PAIRS) -> None:
    """Models, prompts and pairs, as the stages before would have left them."""
    from rlp_engine.models.policy import save_policy
    from rlp_engine.models.reward import load_reward, save_reward
    from rlp_engine.models.scratch import build_scratch

    vocabulary = [" ".join(f"w{word}" for word in range(WORDS))]
    write_jsonl(run_dir / "prepare" / "unlabeled.jsonl", prompts(count))
    write_jsonl(run_dir / "collect" / "pairs.jsonl", (PreferencePair(p, "w1 w2", "w3 w4") for p in prompts(pairs)))
    for seed, name in enumerate(("sft", "ppo")):
        save_policy(build_scratch(MODEL, vocabulary, seed=seed), run_dir / name / "model")
    save_reward(load_reward(run_dir / "sft" / "model", MODEL, from_policy=True), run_dir / "train-rm" / "model")


def context_of(run_dir: Path, name: str, **changes: Any) -> StageContext:
    """What the stage's function is handed; `changes` are sections of the config."""
    config = RunConfig.model_validate({**CONFIG, **changes})
    spec = next(spec for spec in build_pipeline(config) if spec.name == name)
    layout = RunLayout(run_dir)
    out = layout.stage(name)
    out.mkdir(parents=True)
    return StageContext(
        spec=spec,
        run_dir=run_dir,
        out=out,
        inputs={item.name: layout.stage(item.stage) / item.path for item in spec.inputs if item.stage},
        config=ConfigView(config, spec.sections),
        events=EventLog(run_dir / "events.jsonl"),
        reporter=NullReporter(),
        stop=StopSignal(),
    )


def run_stage(run_dir: Path, name: str) -> None:
    """In this process; its last line says what it took."""
    context = context_of(run_dir, name)
    function, started = context.spec.load(), time.process_time()
    function(context)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    written = {part: size_of(context.out / part) for part in STAGES[name]}
    sys.stdout.write(json.dumps({"peak_bytes": peak, "seconds": time.process_time() - started, "written": written}))


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())


def measure(run_dir: Path, rows: int) -> Iterator[dict[str, Any]]:
    build(run_dir, rows // ANSWERS)
    for name in STAGES:
        command = [sys.executable, __file__, "--stage", name, "--work", str(run_dir)]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode}\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        yield {"rows": rows, "stage": name, **found, "versions": current_versions()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,1000000")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.work, arguments.stage)
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for rows in map(int, arguments.rows.split(",")):
            for row in measure((arguments.work or Path(temporary)).absolute() / str(rows), rows):
                found.append(row)
                sys.stderr.write(f"{row['rows']} {row['stage']}: {row['seconds']:.0f} s\n")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in found))
    for name in STAGES:
        rows = [row for row in found if row["stage"] == name]
        ratio = rows[-1]["peak_bytes"] / rows[0]["peak_bytes"]
        sizes = ", ".join(f"{row['peak_bytes'] / 2**20:.0f} MiB at {row['rows']:,}" for row in rows)
        verdict = "" if ratio <= PEAK_RATIO else f", asked: at most {PEAK_RATIO}"
        sys.stdout.write(f"{name:<24} {sizes}: {ratio:.3f} times{verdict}\n")


if __name__ == "__main__":
    main()
