"""Ids, subsets and meta of strangers' rows are text: no stage makes a file of them outside its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import TINY, rlp, sets

STAGES = ["prepare", "sft", "collect", "train-rm", "ppo", "round-1/sample", "round-1/embed"]
STAGES += ["round-1/spg/synthesize", "round-1/spg/refine-rm", "round-1/uml/refine-rm"]
COLOURS = ["red", "blue", "green", "grey", "white", "black", "pink", "brown"]


def hostile_ids(outside: Path) -> list[str]:
    names = ["../../outside/x", str(outside / "y"), "a\0b", "z" * 10_000, ".", "..", "~/x", "a/b/../../../../x"]
    return [*names, "C:\\x", "con", "$(touch x)", "; touch x", "%2e%2e%2fx", "\n", "-rf", "*"]


def rows(outside: Path) -> list[dict]:
    return [
        {
            "prompt_id": name,
            "pair_id": name,
            "instruction": f"what colour is thing {number} ?",
            "output": f"it is {COLOURS[number % 8]} .",
            "chosen": f"it is {COLOURS[number % 8]} .",
            "rejected": "no .",
            "subset": name,
            "meta": {"topic": name, name: name},
        }
        for number, name in enumerate(hostile_ids(outside))
    ]


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.slow
def test_no_id_becomes_a_path_in_any_stage(tmp_path):
    outside, run_dir = tmp_path / "outside", tmp_path / "runs" / "deep" / "run"
    outside.mkdir()
    run_dir.parent.mkdir(parents=True)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(outside)))
    tables = ("demonstrations", "preferences", "unlabeled", "validation", "test")
    own = {f"data.{table}.path": str(data) for table in tables} | {
        "data.source": "files",
        "methods": ["spg", "uml"],
        "collect.source": "file",
        "collect.label_noise.temperature": 0,
        "collect.annotator.kind": "reward-model",
        "evaluate.judge.kind": "reward-model",
        "synthesize.equivalence.kind": "exact-match",
        "train_rm.held_out": 4,
        "ppo.steps": 2,
        "refine_rm.multi_view.pairs_per_step": 8,
        "refine_rm.multi_view.microbatch": 8,
    }
    before = everything(tmp_path)
    settings = {key: value for key, value in TINY.items() if not key.startswith("sandbox.")} | own
    until = ["--until", "round-1/spg/refine-rm", "--until", "round-1/uml/refine-rm"]
    rlp("run", "--preset", "quickstart", run_dir, *sets(settings), *until)
    rlp("report", run_dir)
    made = everything(tmp_path) - before
    assert {f"runs/deep/run/{stage}/stage.json" for stage in STAGES} <= made
    assert all(name.startswith("runs/deep/run") for name in made), "something was made outside of the run directory"
    names = {part for name in made for part in name.split("/")}
    assert not names & {"x", "y", "a", "b", "con", "-rf", "*", "~"}
    ids = {json.loads(line)["prompt_id"] for line in (run_dir / "prepare" / "unlabeled.jsonl").read_text().splitlines()}
    assert set(hostile_ids(outside)) - ids == set(), "the ids have come through all the same"
