"""Files that `evaluate` writes for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from rlp_engine.config.schema import DataFile
from rlp_engine.data.readers import load_prompts
from rlp_engine.data.records import Sample
from rlp_engine.stages.evaluate import paired_differences
from rlp_engine.stages.evaluate_policies import write_outputs


def test_outputs_keep_the_dataset_of_the_test_file(tmp_path: Path) -> None:
    row = {"instruction": "Why?", "output": "Because.", "generator": "text_davinci_003", "dataset": "koala"}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    prompts = load_prompts(DataFile(path=str(tmp_path / "test.json")), 0)
    answer = Sample(prompts[0].prompt_id, 0, "So.", [1], "stop", 0.0)
    write_outputs(SimpleNamespace(out=tmp_path), "ppo", prompts, [answer])
    assert json.loads((tmp_path / "outputs" / "ppo.json").read_text()) == [
        {
            "instruction": "Why?",
            "input": "",
            "output": "So.",
            "generator": "ppo",
            "dataset": "koala",
            "datasplit": "eval",
        }
    ]


def test_the_control_is_compared_with_the_method_whose_steps_it_matches() -> None:
    names = ["sft", "ppo", "round-1/spg", "round-1/uml", "round-1/reseed"]
    judgements = {name: [1.0, 2.0, 1.5, float(1 + index % 2)] for index, name in enumerate(names)}
    rows = paired_differences(names, judgements, seed=0, matched="spg")
    assert [(row["a"], row["b"]) for row in rows] == [
        ("ppo", "sft"),
        ("round-1/spg", "ppo"),
        ("round-1/uml", "ppo"),
        ("round-1/reseed", "ppo"),
        ("round-1/spg", "round-1/reseed"),
    ]
