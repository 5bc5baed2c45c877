"""The sharded stages of a tiny run, by one process or by the ranks that a launcher started: RUN_DIR [WOUND]."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_models import save_nli

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.data.rows import read_prompts
from rlp_engine.distributed.world import World, join, leave
from rlp_engine.models.policy import save_policy
from rlp_engine.models.reward import load_reward, save_reward
from rlp_engine.models.scratch import build_scratch
from rlp_engine.run.events import EventLog
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.reporting import NullReporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.spec import ConfigView, StageContext, StageSpec

STAGES = (
    "collect",
    "round-1/sample",
    "round-1/embed",
    "round-1/spg/synthesize",
    "round-1/rlaif/synthesize",
    "evaluate",
)
MODEL = ModelConfig(
    template="plain",
    scratch=ScratchConfig(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24, init_std=0.3, tokenizer="word"
    ),
)


class Wound(NullReporter):
    """Hurts this process when it has done so many shards of `sample`: as a crash would, or as people do."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        if stage == "round-1/sample" and done >= total // 2:
            os.kill(os.getpid(), self.signal_number)


def config_of(run_dir: Path) -> RunConfig:
    nli = {"kind": "nli", "model": str(run_dir / "nli"), "max_length": 60, "question_tokens": 4, "microbatch": 16}
    rlaif = {"prompt": "{instruction} {response_1} {response_2}", "labels": ["red", "blue"]}
    gold = {"kind": "gold"}
    return RunConfig.model_validate(
        {
            "methods": ["spg", "rlaif"],
            "data": {"source": "sandbox"},
            "sandbox": {"facts": 40, "preference_facts": 40, "demonstrations_per_form": 1},  # two shards of test
            "model": MODEL,
            "compute": {"device": "cpu", "cpu_threads": 1},
            "generation": {"max_prompt_tokens": 16, "max_new_tokens": 4},
            "collect": {"annotator": gold},
            "sample": {"num_per_prompt": 3, "shard_prompts": 150},
            "embed": {"drift_samples": 40},
            "synthesize": {"min_confidence": 0.0, "equivalence": nli, "rlaif": rlaif},
            "evaluate": {"judge": gold, "samples_per_prompt": 2, "best_of_n": 2},
        }
    )


def build(run_dir: Path) -> None:
    """What the sharded stages read."""
    save_nli(run_dir / "nli")
    stage(run_dir, "prepare", NullReporter())
    prompts = read_prompts(run_dir / "prepare" / "unlabeled.jsonl")
    texts = [prompt.instruction for prompt in prompts] + ["the answer is red . blue . green ."]
    for number, name in enumerate(("sft", "ppo", "round-1/spg/ppo", "round-1/rlaif/ppo")):
        save_policy(build_scratch(MODEL, texts, seed=number), run_dir / name / "model")
    for number, name in enumerate(("train-rm", "round-1/spg/refine-rm", "round-1/rlaif/refine-rm")):
        model = load_reward(run_dir / "sft" / "model", MODEL, from_policy=True, seed=number)
        save_reward(model, run_dir / name / "model")


def stage(run_dir: Path, name: str, reporter: NullReporter) -> dict[str, Any]:
    """Run one stage as this rank."""
    config = config_of(run_dir)
    spec: StageSpec = next(spec for spec in build_pipeline(config) if spec.name == name)
    layout = RunLayout(run_dir)
    out = layout.stage(name)
    out.mkdir(parents=True, exist_ok=True)
    inputs = {i.name: layout.stage(i.stage) / i.path if i.stage else Path(i.path) for i in spec.inputs}
    with StopSignal() as stop:
        context = StageContext(
            spec=spec,
            run_dir=run_dir,
            out=out,
            inputs=inputs,
            config=ConfigView(config, spec.sections),
            events=EventLog(run_dir / "events.jsonl"),
            reporter=reporter,
            stop=stop,
        )
        return spec.load()(context)


def digests(run_dir: Path) -> dict[str, str]:
    """What the stages left, but for the times of day in events.jsonl."""
    folders = [run_dir / name for name in (*STAGES, ".cache/nli")]
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def run(run_dir: Path, here: World, wound: int = 0) -> None:
    is_hurt = wound and here.rank == here.size - 1
    for name in STAGES:
        stage(run_dir, name, Wound(wound) if is_hurt else NullReporter())


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), join(), getattr(signal, sys.argv[2]) if len(sys.argv) > 2 else 0)
    leave()
