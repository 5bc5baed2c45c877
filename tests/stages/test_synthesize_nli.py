"""`synthesize` with a real NLI model: stopped by a signal, run again, run with other settings."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import save_nli

from rlp_engine.config.schema import RunConfig
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import write_jsonl
from rlp_engine.errors import Interrupted
from rlp_engine.run.events import EventLog
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.reporting import NullReporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.runner import memory_keys
from rlp_engine.stages.spec import ConfigView, StageContext, StageSpec
from rlp_engine.stages.synthesize import run

SHARDS, PROMPTS, DRAWS = 3, 4, 6
WORDS = ["paris", "london", "it", "yes", "no", "cold", "hot", "big"]


class SignalAfter(StopSignal):
    """A real Ctrl-C, sent when the stage asks for the nth time whether it should stop."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.left = asked

    def check(self, where: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        super().check(where)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    draws = np.random.default_rng(3)
    prompts = [Prompt(f"p{i}", f"what is {WORDS[i % 5]}") for i in range(SHARDS * PROMPTS)]  # some are asked twice
    write_jsonl(folder / "unlabeled.jsonl", prompts)
    (folder / "answers").mkdir()
    (folder / "vectors").mkdir()
    for shard in range(SHARDS):
        samples = [
            Sample(prompt.prompt_id, draw, " ".join(draws.choice(WORDS, draws.integers(1, 4))), [1], "stop", 0.0)
            for prompt in prompts[shard * PROMPTS : (shard + 1) * PROMPTS]
            for draw in range(DRAWS)
        ]
        write_jsonl(folder / "answers" / f"shard_{shard:05d}.jsonl", samples)
        rewards = draws.normal(size=len(samples)).astype(np.float32)
        save_file({"rewards": rewards}, folder / "vectors" / f"shard_{shard:05d}.safetensors")
    return {
        "samples": folder / "answers",
        "rewards": folder / "vectors",
        "unlabeled": folder / "unlabeled.jsonl",
        "equivalence_model": save_nli(folder / "nli"),
    }


def synthesize(
    run_dir: Path, inputs: dict[str, Path], stop: StopSignal | None = None, selection: str = "spg", **settings: Any
) -> dict[str, Any]:
    """One attempt; its numbers, and in "asked" how many questions the model answered in it."""
    nli = {"kind": "nli", "model": str(inputs["equivalence_model"]), "max_length": 60, "microbatch": 5}
    nli |= {key: settings.pop(key) for key in ("rule",) if key in settings}
    config = RunConfig.model_validate({"synthesize": {"min_confidence": 0.3, "equivalence": nli} | settings})
    out = run_dir / "synthesize"
    out.mkdir(parents=True, exist_ok=True)
    sections = ("seed", "compute", "synthesize", "sandbox")
    spec = StageSpec("synthesize", "synthesize", 1, (), sections, "", {"selection": selection, "round": 1})
    before = answers_on_file(run_dir)
    context = StageContext(
        spec=spec,
        run_dir=run_dir,
        out=out,
        inputs=inputs,
        config=ConfigView(config, sections),
        events=EventLog(run_dir / "events.jsonl"),
        reporter=NullReporter(),
        stop=stop or StopSignal(),
    )
    with context.stop:
        summary = run(context)
    return {**summary, "asked": answers_on_file(run_dir) - before}


def answers_on_file(run_dir: Path) -> int:
    files = list(RunLayout(run_dir).nli_answers.glob("*.jsonl"))
    return sum(line.count('["') for file in files for line in file.read_text().splitlines())


def files_of(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "synthesize").iterdir()}


@pytest.mark.parametrize("checks", [2, 9, 30])
def test_ctrl_c_loses_no_answer_and_the_result_is_that_of_an_uninterrupted_stage(
    inputs: dict[str, Path], tmp_path: Path, checks: int
) -> None:
    whole = synthesize(tmp_path / "whole", inputs)
    assert whole["asked"] == whole["nli_calls"]
    with pytest.raises(Interrupted):
        synthesize(tmp_path / "cut", inputs, SignalAfter(checks))
    kept = answers_on_file(tmp_path / "cut")
    assert 0 < kept < whole["nli_calls"]
    rest = synthesize(tmp_path / "cut", inputs)
    assert kept + rest["asked"] == whole["asked"]
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert {**rest, "asked": whole["asked"]} == whole


def test_another_gamma_or_selection_asks_nothing(inputs: dict[str, Path], tmp_path: Path) -> None:
    first = synthesize(tmp_path / "run", inputs)
    other = synthesize(tmp_path / "run", inputs, min_confidence=0.6)
    assert other["asked"] == 0
    assert other["accepted"] < first["accepted"]
    assert other["nli_calls"] == first["nli_calls"]
    assert synthesize(tmp_path / "run", inputs, selection="select-all")["asked"] == 0
    assert {**other, "asked": 0} == {**synthesize(tmp_path / "fresh", inputs, min_confidence=0.6), "asked": 0}


def test_calls_are_counted_against_the_sequential_walk(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = synthesize(tmp_path / "run", inputs)
    assert found["naive_nli_calls"] == 2 * found["naive_comparisons"]
    assert found["nli_calls"] < found["naive_nli_calls"]


def test_other_weights_in_the_same_folder_are_asked_anew(inputs: dict[str, Path], tmp_path: Path) -> None:
    first = synthesize(tmp_path / "run", inputs)
    weights = inputs["equivalence_model"] / "model.safetensors"
    tensors = load_file(weights)
    other = tmp_path / "nli"
    shutil.copytree(inputs["equivalence_model"], other)
    save_file({k: -v if k == "classifier.bias" else v * 0.5 for k, v in tensors.items()}, other / "model.safetensors")
    second = synthesize(tmp_path / "run", {**inputs, "equivalence_model": other})
    assert first["asked"] > 0
    assert second["asked"] == second["nli_calls"]


def test_when_memory_is_short_the_nli_models_microbatch_is_named() -> None:
    config = RunConfig()
    [spec] = [spec for spec in build_pipeline(config) if spec.name == "round-1/spg/synthesize"]
    assert memory_keys(config, spec) == ["synthesize.equivalence.microbatch (now 32)"]
    [spec] = [spec for spec in build_pipeline(config) if spec.name == "round-1/spg/refine-rm"]
    assert memory_keys(config, spec) == [
        "refine_rm.microbatch (now 2)",
        "train_rm.microbatch (now 2)",
        "train_rm.score_microbatch (now 16)",
    ]
