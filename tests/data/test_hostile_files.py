"""Data files of a stranger: bounded memory, short messages, and never anything but our own errors."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import resource
import subprocess
import sys
import zlib

import pyarrow
import pyarrow.parquet
import pytest
from hostile_bytes import hostile_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data import sources
from rlp_engine.data.check import check_file
from rlp_engine.data.judgements import read_judgements
from rlp_engine.data.readers import load_preferences
from rlp_engine.data.shapes import SHAPES
from rlp_engine.data.strict_json import StrictParser
from rlp_engine.errors import DataError, RlpError

HUGE = 10**400
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
DEEP = json.loads("[" * 60 + "]" * 60)
LONG = "x" * 1_000_000
GIBIBYTE = 2**30


def packed(start: bytes, piece: bytes, times: int) -> bytes:
    """The gzip of `start` and so many pieces, without holding them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(start) + b"".join(packer.compress(piece) for _ in range(times)) + packer.flush()


def parquet(**columns) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


@pytest.mark.parametrize("start", [b"", b"["])
def test_a_small_file_of_endless_rows_is_stopped(tmp_path, monkeypatch, start):
    monkeypatch.setattr(sources, "ALWAYS_READ_BYTES", 2**16)
    path = tmp_path / "bomb.gz"
    row = b'{"instruction": "' + b"a" * 40_000 + b'"}'
    path.write_bytes(packed(start, row + (b",\n" if start else b"\n"), 2_000))  # 80 MB in 120 KB
    report = check_file(path, "prompts")
    assert report.rows < 1_500
    [(_, found)] = report.problems
    assert "grows to more than 200 times its size" in found


def test_a_small_file_of_one_huge_row_cannot_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(packed(b'[{"instruction": [', b"{}," * 300_000, 400))  # as Python objects: 26 GB
    done = subprocess.run(
        [sys.executable, "-m", "rlp_cli", "data", "check", str(path), "--as", "prompts"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * GIBIBYTE, 3 * GIBIBYTE)),
    )
    assert done.returncode == 4, done.stderr
    assert "longer than 16 MiB" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("row", "kind", "what"),
    [
        ({**PAIR, "weight": HUGE}, "preferences", "`weight` is 1000"),
        ({"instruction": "i", "output_1": "a", "output_2": "b", "preference": HUGE}, "annotations", "want a number"),
        ({**PAIR, "weight": DEEP}, "preferences", "`weight` is [["),
        ({**PAIR, "x": json.loads("[" * 300 + "]" * 300)}, "preferences", "nested too deeply"),
        ({**PAIR, "instruction_id_list": ["a"], "kwargs": [{"k": DEEP}]}, "prompts", "`kwargs` holds"),
        ({**PAIR, "weight": [LONG]}, "preferences", "`weight` is ['xxx"),
        ({"messages": [{"role": LONG, "content": "a"}]}, "prompts", "has a turn by 'xxx"),
        ({f"column {number}": 1 for number in range(10_000)} | {LONG: 1}, "prompts", "and 9,971 more"),
    ],
)  # fmt: skip
def test_a_hostile_value_is_one_short_message(tmp_path, row, kind, what):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    [(where, found)] = check_file(path, kind).problems
    assert where == f"{path}:1"
    assert what in found
    assert len(found) < 1000


def test_a_long_id_that_stands_twice_is_told_in_short(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**PAIR, "pair_id": LONG}) + "\n" + json.dumps({**PAIR, "pair_id": LONG}) + "\n")
    [(_, found)] = check_file(path, "preferences").problems
    assert found.startswith("the id 'xxxx")
    assert len(found) < 1000


def test_a_number_that_no_float_holds_is_left_out_of_what_is_only_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**PAIR, "p_chosen": HUGE, "strength": 2}) + "\n")
    [pair] = load_preferences(DataFile(path=str(path)), 0)
    assert pair.meta == {"strength": 2}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (parquet(instruction=["a"], at=pyarrow.array([2**61], pyarrow.timestamp("us"))), "a value of the parquet file"),
        (parquet(instruction=pyarrow.array([b"\xff"]).view(pyarrow.string())), "a value of the parquet file"),
        (parquet(instruction=[{"a": 1}]), "`instruction` is an object, want text"),
        (parquet(instruction=pyarrow.array([], pyarrow.string())), "there are no rows"),
    ],
)
def test_parquet_of_other_types_is_told(tmp_path, data, what):
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    [(where, found)] = check_file(path, "prompts").problems
    assert what in found
    assert str(path) in where


def test_parquet_with_a_column_twice_is_told(tmp_path):
    path = tmp_path / "a.parquet"
    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    pyarrow.parquet.write_table(pyarrow.table(columns, names=["instruction", "instruction"]), path)
    with pytest.raises(DataError, match="columns of one name: 'instruction'"):
        read_judgements(DataFile(path=str(path)))


def test_bytes_that_are_no_text_late_in_an_array_are_placed(tmp_path):
    path = tmp_path / "a.json"
    row = '{"instruction": "é"},\n'.encode()
    path.write_bytes(b"[\n" + row * 100_000 + b'{"instruction": "\xe9"}]')
    report = check_file(path, "prompts")
    assert report.rows >= 50_000
    assert report.problems == [(f"{path}:100002", f"not UTF-8: byte 0xe9 at byte {2 + 100_000 * len(row) + 18}")]


ARRAYS = st.sampled_from(
    ['[1, 23, {"a": "b\\u00e9"}]', " [ ] ", '[{"a": [1, {}]},\n{"b": 1.5e3}\n]', "[1 2]", "[1,", "[12345678]x", "[tru]"]
)


@given(ARRAYS, st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=60, deadline=None)
def test_where_the_pieces_of_an_array_end_makes_no_difference(text, cuts):
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(ends)]
    assert list(StrictParser().elements(pieces)) == list(StrictParser().elements([text]))


@given(hostile_bytes(), st.sampled_from(sorted(SHAPES)))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_bytes_are_data_or_an_error_of_ours(tmp_path, data, kind):
    path = tmp_path / "any.file"
    path.write_bytes(data)
    report = check_file(path, kind)
    assert report.good_rows <= report.rows
    assert report.num_problems or report.rows
    with contextlib.suppress(RlpError):
        read_judgements(DataFile(path=str(path)))


def test_gzip_within_gzip_is_told(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(gzip.compress(b'{"instruction": "a"}\n')))
    with pytest.raises(DataError, match="compressed twice"):
        load_preferences(DataFile(path=str(path)), 0)
