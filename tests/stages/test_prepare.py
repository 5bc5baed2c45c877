"""Test instructions that the run would train on, or choose a checkpoint by."""

from __future__ import annotations

from types import SimpleNamespace

from rlp_engine.config.schema import DataConfig, DataFile, SandboxConfig
from rlp_engine.run.reporting import NullReporter
from rlp_engine.stages.prepare import run


class Warnings(NullReporter):
    def __init__(self) -> None:
        self.told: list[str] = []

    def warn(self, text: str) -> None:
        self.told.append(text)


def prepared(tmp_path, **tables: list[str]) -> tuple[dict, list[str]]:
    files = {}
    for name, instructions in tables.items():
        path = tmp_path / f"in_{name}.jsonl"
        path.write_text("".join(f'{{"instruction": "{text}"}}\n' for text in instructions))
        files[name] = DataFile(path=str(path))
    config = SimpleNamespace(data=DataConfig(**files), sandbox=SandboxConfig(), seed=0)
    reporter = Warnings()
    return run(SimpleNamespace(config=config, out=tmp_path, reporter=reporter)), reporter.told


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
