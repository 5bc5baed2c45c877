"""Annotation files as judgements: what is kept of a row, and what is refused."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.judgements import read_judgements
from rlp_engine.errors import DataError

ROW = {
    "instruction": "Add.",
    "output_1": "three",
    "generator_1": "text_davinci_003",
    "dataset": "vicuna",
    "output_2": "four!",
    "generator_2": "ppo",
    "annotator": "alpaca_eval_gpt4",
    "preference": 2,
}


def read(tmp_path, *rows, **settings):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    return read_judgements(DataFile(path=str(path), **settings))


def test_a_row_of_alpacaeval(tmp_path):
    (found,) = read(tmp_path, ROW)
    assert (found.generator, found.reference, found.annotator) == ("ppo", "text_davinci_003", "alpaca_eval_gpt4")
    assert (found.preference, found.subset, found.characters, found.reference_characters) == (2.0, "vicuna", 5, 5)


def test_an_input_of_its_own_and_a_merged_one_are_one_instruction(tmp_path):
    apart, merged, other = read(
        tmp_path, ROW | {"input": "1 and 2"}, ROW | {"instruction": "Add.\n\n1 and 2"}, ROW | {"input": ""}
    )
    assert apart.instruction == merged.instruction != other.instruction


def test_what_could_not_be_read_is_kept_as_none_and_old_draws_are_draws(tmp_path):
    found = read(tmp_path, ROW | {"preference": None}, ROW | {"preference": 0}, ROW | {"preference": 1.25})
    assert [judgement.preference for judgement in found] == [None, 1.5, 1.25]


def test_numbers_without_texts(tmp_path):
    row = {"instruction_id": "ae-1", "generator": "phi-2", "reference": "gpt4", "preference": 1, "len_generator": 7}
    (found,) = read(tmp_path, row)
    assert (found.instruction, found.generator, found.reference) == ("id ae-1", "phi-2", "gpt4")
    assert (found.characters, found.reference_characters, found.reference_digest) == (7, None, "")


def test_nan_in_a_parquet_column_is_no_preference(tmp_path):
    row = {key: [value, value] for key, value in ROW.items()} | {"preference": [float("nan"), 1.0]}
    pyarrow.parquet.write_table(pyarrow.table(row), tmp_path / "a.parquet")
    found = read_judgements(DataFile(path=str(tmp_path / "a.parquet")))
    assert [judgement.preference for judgement in found] == [None, 1.0]


@pytest.mark.parametrize("value", [3, "2", True])
def test_a_preference_that_is_none_is_refused_with_its_place(tmp_path, value):
    with pytest.raises(DataError) as caught:
        read(tmp_path, ROW, ROW | {"preference": value})
    assert "(row 2)" in caught.value.where


def test_other_column_names(tmp_path):
    row = {("verdict" if key == "preference" else key): value for key, value in ROW.items()}
    with pytest.raises(DataError, match="preference"):
        read(tmp_path, row)
    assert read(tmp_path, row, fields={"preference": "verdict"})[0].preference == 2.0
