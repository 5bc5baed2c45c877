"""Test instructions that the run would train on, or choose a checkpoint by."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rlp_engine.config.sections.data import DataConfig, DataFile, SandboxConfig
from rlp_engine.data.rows import read_prompts
from rlp_engine.errors import DataError
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.prepare import run


class Warnings(NullReporter):
    def __init__(self) -> None:
        self.told: list[str] = []

    def warn(self, text: str) -> None:
        self.told.append(text)


def prepared(tmp_path, checkable: str = "", sets: dict | None = None, **tables: list[str]) -> tuple[dict, list[str]]:
    files = {"test_sets": sets or {}}
    for name, instructions in tables.items():
        path = tmp_path / f"in_{name}.jsonl"
        path.write_text("".join(f'{{"instruction": "{text}"}}\n' for text in instructions))
        files[name] = DataFile(path=str(path))
    config = SimpleNamespace(data=DataConfig(**files), sandbox=SandboxConfig(), seed=0)
    reporter = Warnings()
    spec = SimpleNamespace(params={"ifeval_tables": [checkable]} if checkable else {})
    return run(SimpleNamespace(spec=spec, config=config, out=tmp_path, reporter=reporter)), reporter.told


def test_an_instruction_of_the_test_set_in_validation_is_told(tmp_path) -> None:
    summary, told = prepared(tmp_path, unlabeled=["One?"], validation=["two ?", "Three?"], test=["Two  ?", "Four?"])
    assert summary["test_instructions_in_validation"] == 1
    assert summary["test_instructions_in_training"] == 0
    assert len(told) == 1
    assert "1 of 2 test instructions also stand in data.validation" in told[0]


def test_an_instruction_of_the_test_set_in_a_training_table_is_told(tmp_path) -> None:
    summary, told = prepared(tmp_path, unlabeled=["Two?", "One?"], validation=["Three?"], test=["Two?"])
    assert (summary["test_instructions_in_training"], summary["test_instructions_in_validation"]) == (1, 0)
    assert "training tables" in told[0]


def test_separate_tables_give_no_warning(tmp_path) -> None:
    assert prepared(tmp_path, unlabeled=["One?"], validation=["Two?"], test=["Three?"])[1] == []


def test_a_further_test_set_is_rows_of_its_own_and_told_when_it_was_trained_on(tmp_path) -> None:
    path = tmp_path / "llmbar.jsonl"
    path.write_text(
        '{"id": "n-1", "subset": "natural", "input": "One?", "output_1": "a", "output_2": "b", "label": 1}\n'
    )
    sets = {"llmbar": DataFile(path=str(path))}
    summary, told = prepared(tmp_path, sets=sets, unlabeled=["one?", "Two?"], test=["Three?"])
    (row,) = read_prompts(tmp_path / "test_sets" / "llmbar.jsonl")
    assert (row.instruction, row.meta["subset"], row.reference) == ("One?", "natural", None)
    assert summary["rows"]["test_sets/llmbar"] == 1
    assert summary["test_instructions_in_training"] == 0
    assert [line for line in told if "1 of 1 instructions of test_sets/llmbar" in line]


def test_a_row_that_the_ifeval_judge_cannot_check_stops_the_run_before_training(tmp_path) -> None:
    with pytest.raises(DataError, match="without demands") as caught:
        prepared(tmp_path, checkable="validation", test=["Three?"], validation=["Four?"])
    assert "data.validation, prompt row-000000" in caught.value.where
