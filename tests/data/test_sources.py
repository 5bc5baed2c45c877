"""Files and hub datasets as they come: compression, encodings, sizes, `where`, `columns_from`, `limit`."""

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data import sources
from rlp_engine.data.check import check_file
from rlp_engine.data.readers import drawn, load_preferences, load_prompts
from rlp_engine.data.selection import selected_rows
from rlp_engine.errors import ConfigError, DataError, ModelError

ROWS = [{"instruction": f"question {number}", "part": "ab"[number % 2]} for number in range(10)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def instructions(file: DataFile, seed: int = 0, **keys) -> list[str]:
    return [prompt.instruction for prompt in load_prompts(file, seed, **keys)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["lines", "array", "indented", "parquet", "bom", "no newline at the end", "crlf"])
def test_the_same_rows_from_every_form_whatever_the_name(tmp_path, form, packed):
    if form == "parquet":
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
        data = sink.getvalue().to_pybytes()
    else:
        data = {
            "lines": LINES,
            "array": json.dumps(ROWS),
            "indented": " \n" + json.dumps(ROWS, indent=2),
            "bom": "\ufeff" + LINES,
            "no newline at the end": LINES.rstrip("\n"),
            "crlf": LINES.replace("\n", "\r\n"),
        }[form].encode()
    path = tmp_path / "some.file"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert instructions(DataFile(path=str(path))) == [row["instruction"] for row in ROWS]
    assert [row.values["part"] for row in selected_rows(DataFile(path=str(path)), None)] == list("ab" * 5)


def test_separators_of_unicode_do_not_end_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "a\u2028b\u0085c\x0bd"}, ensure_ascii=False) + "\n")
    assert instructions(DataFile(path=str(path))) == ["a\u2028b\u0085c\x0bd"]


def peak_mib(work) -> tuple[object, float]:
    """The result of `work()` and the most memory that Python's objects took meanwhile."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_a_compressed_bomb_is_stopped_at_the_line_limit(tmp_path):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as handle:
        handle.write(b'{"instruction": "a"}\n{"instruction": "')
        for _ in range(128):
            handle.write(b"a" * 2**20)
    report, peak = peak_mib(lambda: check_file(path, "prompts"))
    assert peak < 64
    assert report.good_rows == 1
    [(where, what)] = report.problems
    assert where.endswith(":2")
    assert "longer than 16 MiB" in what


@pytest.mark.parametrize("start", [b"[", b"PAR1"])
def test_a_compressed_file_that_is_read_whole_is_stopped_at_its_limit(tmp_path, monkeypatch, start):
    monkeypatch.setattr(sources, "MAX_PARQUET_BYTES", 2**20)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(start + b" " * 2**26, compresslevel=1))
    report, peak = peak_mib(lambda: check_file(path, "prompts"))
    assert peak < 16
    assert "is larger than" in report.problems[0][1] or "more than 200 times" in report.problems[0][1]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PK\x03\x04 zip", "zip archive"),
        (b"\x28\xb5\x2f\xfd", "zstd archive"),
        (b"BZh91AY", "bzip2 archive"),
        ('[{"a": 1}]'.encode("utf-16-le"), "UTF-16"),
        ('[{"a": 1}]'.encode("utf-32"), "UTF-16"),
        (b"<html><body>", "HTML"),
        (b"  \n\n", "there are no rows"),
        (b"[]", "there are no rows"),
        (b'{\n "instruction": "a"\n}\n', "one JSON object over many lines"),
        (b"PAR1 and no more", "the parquet file is damaged"),
        (b"\x1f\x8b\x08\x00garbage", "gzip stream is cut short or damaged"),
        (b"instruction,output\na,b\n", "2 of 2 rows are not prompts: not JSON"),
        (b'"a"\n3\nnull\n[1]\n', "4 of 4 rows are not prompts: a row is a JSON object; this is text"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
    ],
)
def test_what_is_no_data_is_named(tmp_path, data, what):
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        load_prompts(DataFile(path=str(path)), 0)
    assert what in error.value.what
    assert str(path) in error.value.where
    assert check_file(path, "prompts").num_problems > 0


def test_a_damaged_gzip_still_gives_the_rows_before(tmp_path):
    path = tmp_path / "x.gz"
    packed = bytearray(gzip.compress(LINES.encode() * 2_000))
    packed[-6] ^= 0xFF  # the checksum, which is looked at when the last block is read
    path.write_bytes(packed)
    report = check_file(path, "prompts")
    assert report.good_rows > 1_000
    [(_, what)] = report.problems
    assert "gzip stream is cut short or damaged" in what


def test_places_that_are_no_files_are_told_apart(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_prompts(DataFile(path=str(tmp_path / "absent")), 0)
    with pytest.raises(DataError, match="is a folder"):
        load_prompts(DataFile(path=str(tmp_path)), 0)
    with pytest.raises(DataError, match="not a file on this machine"):
        load_prompts(DataFile(path="https://example.org/x.jsonl"), 0)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe or a device"):  # and does not wait for a writer
        load_prompts(DataFile(path=str(tmp_path / "pipe")), 0)


def test_paths_start_from_the_base_and_only_the_tilde_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NAME", "home")
    for folder in ("home", "$NAME"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text(json.dumps({"instruction": folder}))
    assert instructions(DataFile(path="~/x.jsonl"), base=tmp_path / "elsewhere") == ["home"]
    assert instructions(DataFile(path="$NAME/x.jsonl"), base=tmp_path) == ["$NAME"]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "rows.jsonl").write_text(LINES)

    def make(**keys) -> DataFile:
        return DataFile(path=str(tmp_path / "rows.jsonl"), **keys)

    return make


def test_where_keeps_rows(file):
    assert instructions(file(where={"part": "b"})) == [f"question {number}" for number in (1, 3, 5, 7, 9)]


def test_where_that_matches_nothing_says_what_there_is(file):
    with pytest.raises(DataError, match="no row has part = 'c'") as error:
        load_prompts(file(where={"part": "c"}), 0)
    assert error.value.found == "part: 'a', 'b'"
    with pytest.raises(DataError) as error:
        load_prompts(file(where={"splitt": "c"}), 0)
    assert error.value.found == "columns instruction, part"


def test_where_does_not_take_true_for_one(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"instruction": str(value), "label": value} for value in (True, 1, "1", False, 0, None)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert instructions(DataFile(path=str(path), where={"label": True})) == ["True"]
    assert instructions(DataFile(path=str(path), where={"label": 1})) == ["1"]
    assert instructions(DataFile(path=str(path), where={"label": 0})) == ["0"]


def beside(tmp_path, rows) -> str:
    (tmp_path / "beside.json").write_text(json.dumps(rows))
    return str(tmp_path / "beside.json")


def test_columns_from_adds_the_columns_of_the_same_row(tmp_path, file):
    extra = beside(
        tmp_path, [{"prompt_id": f"id-{number}", "split": "train" if number < 3 else "test"} for number in range(10)]
    )
    prompts = load_prompts(file(columns_from=extra, where={"split": "train"}), 0)
    assert [(prompt.prompt_id, prompt.instruction) for prompt in prompts] == [
        (f"id-{n}", f"question {n}") for n in range(3)
    ]


@pytest.mark.parametrize(("count", "shown"), [(9, "has 9 rows"), (12, "has 12 rows"), (0, "has 0 rows")])
def test_columns_from_must_have_as_many_rows(tmp_path, file, count, shown):
    with pytest.raises(DataError) as error:
        load_prompts(file(columns_from=beside(tmp_path, [{"x": 1}] * count)), 0)
    assert shown in error.value.what
    assert "has 10" in error.value.what


def test_columns_from_in_another_order_is_noticed(tmp_path, file):
    extra = beside(tmp_path, [{"part": "ba"[number % 2], "x": 1} for number in range(10)])
    with pytest.raises(DataError, match="not in the same order") as error:
        load_prompts(file(columns_from=extra), 0)
    assert error.value.found == "'a' and 'b'"


def test_a_fault_beside_is_a_fault(tmp_path, file):
    with pytest.raises(DataError, match="columns_from: a row is a JSON object"):
        load_prompts(file(columns_from=beside(tmp_path, [1] * 10)), 0)


def test_limit_draws_with_the_seed_and_keeps_the_order(file):
    drawn_0 = instructions(file(limit=4), seed=0)
    assert drawn_0 == instructions(file(limit=4), seed=0)
    assert drawn_0 == sorted(drawn_0)
    assert len(drawn_0) == 4
    assert any(instructions(file(limit=4), seed=seed) != drawn_0 for seed in range(1, 4))
    assert len(instructions(file(limit=99))) == 10


def test_limit_gives_every_item_the_same_chance():
    counts = Counter(item for seed in range(2000) for item in drawn(range(10), 3, seed, "prompts"))
    # Binomial(2000, 0.3): mean 600, standard deviation 20.5; five of them
    assert all(abs(counts[item] - 600) < 103 for item in range(10))


def test_limit_counts_rows_that_can_be_used(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"instruction": "q", "output_1": "a", "output_2": "b", "preference": n % 2} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_preferences(DataFile(path=str(path), limit=10), 0)) == 10  # the ten draws do not count


def test_a_long_file_is_not_held_in_memory(tmp_path):
    path = tmp_path / "long.jsonl"
    line = json.dumps({"instruction": "x" * 100_000}) + "\n"
    with path.open("w") as handle:
        for _ in range(1000):  # 100 MB
            handle.write(line)
    script = (
        "import resource, sys; from rlp_engine.data.check import check_file;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "report = check_file(sys.argv[1], 'prompts');"
        "print(report.good_rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    out = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True).stdout
    good_rows, grown_mib = map(int, out.split())
    assert good_rows == 1000
    assert grown_mib < 30


def test_checking_data_imports_no_torch(tmp_path):
    (tmp_path / "x.jsonl").write_text(LINES)
    script = (
        "import sys; from rlp_engine.data.check import check_file;"
        "check_file(sys.argv[1], 'prompts'); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.jsonl")], capture_output=True, text=True)
    assert out.stdout.strip() == "False", out.stderr


def test_a_dataset_folder_is_read_as_the_hub_is(tmp_path):
    (tmp_path / "train.jsonl").write_text(LINES)
    file = DataFile(path=f"hub:{tmp_path}", where={"part": "a"}, limit=2)
    assert len(instructions(file)) == 2
    with pytest.raises(ModelError, match="could not be read from the hub"):
        load_prompts(DataFile(path=f"hub:{tmp_path}", hub_split="nope"), 0)


def test_a_hub_that_cannot_be_reached_is_said_in_words(tmp_path):
    script = (
        "import sys\n"
        "from rlp_engine.config.sections.data import DataFile\n"
        "from rlp_engine.data.readers import load_prompts\n"
        "from rlp_engine.errors import ModelError\n"
        "for path in ('hub:nobody/nothing', 'hf://datasets/nobody/nothing/x.jsonl'):\n"
        "    try: load_prompts(DataFile(path=path), 0)\n"
        "    except ModelError as error: print(error.what)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.count("nobody/nothing") == 2, done.stderr


def test_two_tables_of_one_file_draw_rows_of_their_own(file):
    """The same stream for both would make the smaller table a part of the larger one."""
    few = {prompt.instruction for prompt in load_prompts(file(limit=3), 0, table="test")}
    many = {prompt.instruction for prompt in load_prompts(file(limit=6), 0, table="unlabeled")}
    assert not few <= many
