"""What `evaluate` writes for AlpacaEval and AlpacaFarm, and the win-rates of every subset (METHOD 6.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.judgements import merged, read_judgements
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.evaluation.annotations import by_contest, by_subset, summary
from rlp_engine.run.atomic import write_json


def write_outputs(folder: Path, name: str, prompts: Sequence[Prompt], answers: Sequence[Sample], form: str) -> None:
    """FOLDER/NAME.json: a model's answers, one an instruction, as a JSON list.

    Args:
        form: "apart": `instruction` and `input` are two fields, as AlpacaFarm has them; "merged": one, as AlpacaEval
            has them, which joins files on it.
    """
    rows = [
        _instruction(prompt.instruction, prompt.input, form)
        | {"output": answer.text, "generator": name, "dataset": prompt.meta.get("subset", ""), "datasplit": "eval"}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    _write(folder, name, rows)


def write_annotations(folder: Path, lines: Sequence[Mapping[str, Any]], form: str) -> None:
    """FOLDER/GENERATOR.json: the judgements of each generator, as AlpacaEval's annotations.json.

    Args:
        lines: rows of annotations.jsonl.
        form: as in `write_outputs`.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        rest = {key: value for key, value in line.items() if key not in ("instruction", "input")}
        row = _instruction(line["instruction"], line["input"], form) | rest
        rows.setdefault(line["generator_2"], []).append(row)
    for name, own in rows.items():
        _write(folder, name, own)


def subset_results(annotations: Path) -> list[dict[str, Any]]:
    """Of each subset: its win-rate of every policy; empty when the instructions name fewer than two subsets.

    Args:
        annotations: annotations.jsonl of this evaluation, whose rows have the subset as `dataset`.
    """
    judgements = read_judgements(DataFile(path=str(annotations)))
    subsets = by_subset(judgements)
    if len(subsets) < 2:
        return []
    return [
        {
            "subset": name,
            "policies": [{"name": contest.generator, **summary(rows)} for contest, rows in by_contest(subset).items()],
        }
        for name, subset in subsets.items()
    ]


def _instruction(instruction: str, given_input: str, form: str) -> dict[str, Any]:
    if form == "merged":
        return {"instruction": merged(instruction, given_input)}
    return {"instruction": instruction, "input": given_input}


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows)
