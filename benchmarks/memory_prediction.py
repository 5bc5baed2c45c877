"""Peak memory of real stages against what `rlp doctor` predicts, on a CPU in float32.

    python benchmarks/memory_prediction.py [--sizes tiny,small] [--rows 64,320] [--work DIR] [--measured]

For each size: a Llama of random weights, a run directory, then `rlp doctor DIR --json` and every stage in a process of
its own. Writes one JSON line a stage to benchmarks/results/memory-prediction.jsonl and prints the table. The texts
reach the limits of the config (prompts of 44 to 52 tokens, limit 52; answers end at 64 tokens as random weights hardly
ever choose the EOS), since the limits are what doctor reckons with. `--measured` predicts again for stages that an
earlier call left in --work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlp_engine.config.sections.model import ScratchConfig
from rlp_engine.models.scratch import build_tokenizer
from rlp_engine.randomness import uniforms

RESULTS = Path(__file__).parent / "results" / "memory-prediction.jsonl"
PROMPT, RESPONSE, DATA_ROWS = 52, 64, 160
SIZES = {  # 1.18M and 26.5M parameters
    "tiny": {
        "vocab_size": 2048,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 424,
        "tie_word_embeddings": True,
    },
    "small": {
        "vocab_size": 8192,
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 1280,
        "tie_word_embeddings": False,
    },
}
STAGES = {  # command -> folder of the stage
    "prepare": "prepare",
    "sft": "sft",
    "collect": "collect",
    "train-rm": "train-rm",
    "ppo --round 0": "ppo",
    "sample": "round-1/sample",
    "embed": "round-1/embed",
    "synthesize": "round-1/spg/synthesize",
    "refine-rm --method spg": "round-1/spg/refine-rm",
    "refine-rm --method uml": "round-1/uml/refine-rm",
    "ppo --round 1 --method spg": "round-1/spg/ppo",
    "ppo --round 1 --method uml": "round-1/uml/ppo",
    "evaluate": "evaluate",
}
RUN_TOML = """\
seed = 1
methods = ["spg", "uml"]
model = {{ init = "pretrained", path = "{folder}/model", template = "plain" }}
compute = {{ device = "cpu", cpu_threads = 1 }}
generation = {{ max_prompt_tokens = {prompt}, max_new_tokens = {response}, rows = {rows} }}
sft = {{ epochs = 1, minibatch = 32, microbatch = 16, max_length = {length} }}
collect.annotator = {{ kind = "reward-model", path = "{folder}/judge" }}
train_rm = {{ epochs = 1, minibatch = 16, microbatch = 8, max_length = {length}, held_out = 8, score_microbatch = 64 }}
ppo = {{ steps = 2, rollout_batch = 64, minibatch = 32, microbatch = 16, epochs = 1 }}
sample = {{ num_per_prompt = 10, shard_prompts = 32 }}
embed.microbatch = 64
synthesize = {{ min_confidence = 0.0, equivalence.kind = "exact-match" }}
refine_rm = {{ epochs = 1, minibatch = 16, microbatch = 8, multi_view.warmup_steps = 2 }}
evaluate = {{ best_of_n = 4, judge.kind = "reward-model", judge.path = "{folder}/judge" }}

[data]
demonstrations.path = "{folder}/demonstrations.jsonl"
preference_instructions.path = "{folder}/prompts.jsonl"
unlabeled = {{ path = "{folder}/prompts.jsonl", limit = 64 }}
test = {{ path = "{folder}/prompts.jsonl", limit = 80 }}
"""


def texts(vocab: int, count: int, least: int, most: int, key: str) -> Iterator[str]:
    for row in range(count):
        draws = uniforms(most + 1, "memory-prediction", key, row)
        length = least + int(draws[-1] * (most + 1 - least))
        yield " ".join(f"w{int(draw * (vocab - 3))}" for draw in draws[:length])


def build(folder: Path, size: str, rows: int) -> Path:
    """Models, data and run.toml; the run directory."""
    shape = SIZES[size]
    words = [f"w{i}" for i in range(shape["vocab_size"] - 3)]
    tokenizer = build_tokenizer(ScratchConfig(tokenizer="word", vocab_size=shape["vocab_size"]), [" ".join(words)])
    assert len(tokenizer) == shape["vocab_size"]
    torch.manual_seed(0)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(**shape, max_position_embeddings=256, **special)
    for name, module in (("model", LlamaForCausalLM), ("judge", LlamaForSequenceClassification)):
        config.num_labels = 1 if name == "judge" else 2
        module(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    prompts = list(texts(len(words), DATA_ROWS, 44, PROMPT, "prompts"))
    answers = list(texts(len(words), DATA_ROWS, RESPONSE - 8, RESPONSE, "answers"))
    write_rows(folder / "prompts.jsonl", [{"instruction": text} for text in prompts])
    demonstrations = [{"instruction": a, "output": b} for a, b in zip(prompts, answers, strict=True)]
    write_rows(folder / "demonstrations.jsonl", demonstrations)
    run_dir = folder / "run"
    run_dir.mkdir()
    length = PROMPT + RESPONSE + 1  # room for the EOS
    settings = {"folder": folder, "prompt": PROMPT, "response": RESPONSE, "length": length, "rows": rows}
    (run_dir / "run.toml").write_text(RUN_TOML.format(**settings))
    return run_dir


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rlp(*words: str) -> str:
    command = [str(Path(sys.executable).with_name("rlp")), *words]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return done.stdout


def compare(run_dir: Path, size: str, rows: int) -> list[dict[str, Any]]:
    predicted = {stage["stage"]: stage for stage in json.loads(rlp("doctor", str(run_dir), "--json"))["stages"]}
    found = []
    for name in STAGES.values():
        path = run_dir / name / "stage.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        peak, total = record["peak_rss_bytes"], predicted[name]["host_bytes"]
        row = {"size": size, "rows": rows, "stage": name, "measured_bytes": peak, "predicted_bytes": total}
        row |= {"ratio": round(total / peak, 3), "start_bytes": record["start_rss_bytes"]}
        found.append(row | {"parts": predicted[name]["parts"], "versions": record["versions"]})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="tiny,small")
    parser.add_argument("--rows", default="64,320")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--measured", action="store_true")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in arguments.sizes.split(","):
            for rows in map(int, arguments.rows.split(",")):
                folder = (arguments.work or Path(temporary)).absolute() / f"{size}-{rows}"
                if not arguments.measured:
                    run_dir = build(folder, size, rows)
                    for command in STAGES:
                        kind, *rest = command.split()
                        rlp(kind, str(run_dir), *rest)
                found += compare(folder / "run", size, rows)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in found))
    sys.stdout.write(f"{'size':<6} {'rows':>4}  {'stage':<24} {'measured':>9} {'predicted':>9}  ratio   (MiB)\n")
    for row in found:
        sizes = f"{row['measured_bytes'] / 2**20:9.0f} {row['predicted_bytes'] / 2**20:9.0f}"
        sys.stdout.write(f"{row['size']:<6} {row['rows']:>4}  {row['stage']:<24} {sizes}  {row['ratio']:.3f}\n")


if __name__ == "__main__":
    main()
