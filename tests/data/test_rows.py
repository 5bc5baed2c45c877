import json
import os
import stat

import pytest

from rlp_engine.data.records import Demonstration, PreferencePair, Prompt, Sample
from rlp_engine.data.rows import (
    iterate_samples,
    read_demonstrations,
    read_pairs,
    read_prompts,
    read_samples,
    write_jsonl,
)
from rlp_engine.errors import CorruptArtifactError

ODD = "line\nbreak \u2028 \u0085 \r é 日本 🙂 \x00 \x1b[31m </script>"
PROMPT = Prompt("../../etc/passwd", ODD, "in", None, {"subset": "koala", "deep": [1, {"a": None}]})


@pytest.mark.parametrize(
    ("rows", "read"),
    [
        ([PROMPT, Prompt("b", "x", reference="")], read_prompts),
        ([Demonstration(PROMPT, ODD)], read_demonstrations),
        ([PreferencePair(PROMPT, ODD, "", 0.5, {"annotator": "a"})], read_pairs),
        ([Sample("p", 3, ODD, [1, 2, 3], "stop", -1.25)], read_samples),
    ],
)
def test_rows_come_back_as_they_went(tmp_path, rows, read):
    path = tmp_path / "sub" / "rows.jsonl"
    assert write_jsonl(path, iter(rows)) == len(rows)
    assert read(path) == rows
    assert path.read_bytes().count(b"\n") == len(rows)


def test_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / name, [PROMPT])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [PROMPT])
    before = path.read_bytes()

    def failing():
        yield PROMPT
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        write_jsonl(path, failing())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_number_that_json_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_jsonl(tmp_path / "x", [Sample("p", 0, "", [], "stop", float("nan"))])


def test_others_may_read_the_file(tmp_path):
    mask = os.umask(0o022)
    try:
        write_jsonl(tmp_path / "x", [PROMPT])
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


GOOD = {"prompt_id": "p", "draw": 0, "text": "", "token_ids": [], "finish_reason": "stop", "logprob": 0.0}


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(GOOD)[:-5],
        "[]",
        json.dumps({**GOOD, "extra": 1}),
        json.dumps({key: value for key, value in GOOD.items() if key != "draw"}),
        "\xff",
    ],
)
def test_a_damaged_row_is_named_by_file_and_line(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes((json.dumps(GOOD) + "\n" + line + "\n").encode("latin-1"))
    with pytest.raises(CorruptArtifactError) as error:
        read_samples(path)
    assert error.value.where == f"{path}:2"


def test_a_field_with_a_default_must_be_there_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt_id": "p", "instruction": "q", "input": "", "reference": null}\n')
    with pytest.raises(CorruptArtifactError, match="lacks meta"):
        read_prompts(path)


def test_iterating_reads_one_row_at_a_time(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\nbroken\n")
    rows = iterate_samples(path)
    assert next(rows).prompt_id == "p"  # before the broken line is looked at
    with pytest.raises(CorruptArtifactError):
        next(rows)
