"""Files that `evaluate` writes for other programs."""

from __future__ import annotations

import json
from pathlib import Path

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.judgements import read_judgements
from rlp_engine.data.readers import load_prompts
from rlp_engine.data.records import Sample
from rlp_engine.stages.evaluate import paired_differences
from rlp_engine.stages.evaluate_files import subset_results, write_annotations, write_outputs


def written(tmp_path: Path, form: str) -> dict:
    """The row of an instruction with an input, from a file with its dataset."""
    row = {"instruction": "Add.", "input": "1, 2", "output": "3", "generator": "text_davinci_003", "dataset": "koala"}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    prompts = load_prompts(DataFile(path=str(tmp_path / "test.json")), 0)
    answer = Sample(prompts[0].prompt_id, 0, "So.", [1], "stop", 0.0)
    write_outputs(tmp_path / "outputs", "round-1/spg", prompts, [answer], form)
    (found,) = json.loads((tmp_path / "outputs" / "round-1" / "spg.json").read_text())
    return found


def test_outputs_as_alpacafarm_has_them(tmp_path: Path) -> None:
    assert written(tmp_path, "apart") == {
        "instruction": "Add.",
        "input": "1, 2",
        "output": "So.",
        "generator": "round-1/spg",
        "dataset": "koala",
        "datasplit": "eval",
    }


def test_outputs_as_alpacaeval_has_them(tmp_path: Path) -> None:
    found = written(tmp_path, "merged")
    assert found["instruction"] == "Add.\n\n1, 2"
    assert "input" not in found


LINE = {"input": "", "output_1": "ref", "generator_1": "reference", "annotator": "judge"}


def lines() -> list[dict]:
    """Two instructions of two subsets, judged for two policies; one judgement could not be read."""
    found = []
    for name, preferences in {"sft": (1.0, 2.0), "ppo": (2.0, None)}.items():
        for dataset, preference in zip(("koala", "vicuna"), preferences, strict=True):
            row = LINE | {"instruction": f"Do {dataset}.", "input": "it", "dataset": dataset}
            found.append(row | {"output_2": name, "generator_2": name, "preference": preference})
    return found


def test_annotations_are_a_file_a_policy_as_alpacaeval_reads_it(tmp_path: Path) -> None:
    write_annotations(tmp_path, lines(), "merged")
    rows = json.loads((tmp_path / "ppo.json").read_text())
    keys = {"instruction", "dataset", "output_1", "generator_1", "output_2", "generator_2", "annotator", "preference"}
    assert [row.keys() for row in rows] == [keys, keys]
    assert rows[0]["instruction"] == "Do koala.\n\nit"
    assert [row["preference"] for row in rows] == [2.0, None], "AlpacaEval, too, writes null for what it drops"
    judged = read_judgements(DataFile(path=str(tmp_path / "ppo.json")))
    assert [row.subset for row in judged] == ["koala", "vicuna"]


def test_every_subset_has_its_win_rates(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines()))
    koala, vicuna = subset_results(path)
    assert (koala["subset"], [(row["name"], row["win_rate"]) for row in koala["policies"]]) == (
        "koala",
        [("sft", 0.0), ("ppo", 100.0)],
    )
    assert [(row["win_rate"], row["n"], row["dropped"]) for row in vicuna["policies"]] == [(100.0, 1, 0), (None, 0, 1)]
    path.write_text("".join(json.dumps(line | {"dataset": ""}) + "\n" for line in lines()))
    assert subset_results(path) == []


def test_the_control_is_compared_with_the_method_whose_steps_it_matches() -> None:
    names = ["sft", "ppo", "round-1/spg", "round-1/uml", "round-1/reseed"]
    judgements = {name: [1.0, 2.0, 1.5, float(1 + index % 2)] for index, name in enumerate(names)}
    single = paired_differences(names[:2], {name: [2.0] for name in names}, seed=0, matched="spg")
    assert json.loads(json.dumps(single, allow_nan=False))[0]["standard_error"] is None
    rows = paired_differences(names, judgements, seed=0, matched="spg")
    assert [(row["a"], row["b"]) for row in rows] == [
        ("ppo", "sft"),
        ("round-1/spg", "ppo"),
        ("round-1/uml", "ppo"),
        ("round-1/reseed", "ppo"),
        ("round-1/spg", "round-1/reseed"),
    ]
