"""Every faulty file of the shared data, by `rlp data check` and by the loaders."""

import json
import sys

import pytest

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.check import check_file
from rlp_engine.data.readers import (
    load_annotations,
    load_demonstrations,
    load_outputs,
    load_preferences,
    load_prompts,
    load_samples,
)
from rlp_engine.errors import DataError

LOADERS = {
    "prompts": load_prompts,
    "demonstrations": load_demonstrations,
    "preferences": load_preferences,
    "samples": load_samples,
    "outputs": load_outputs,
    "annotations": load_annotations,
}
OURS = {"preference": "preferences", "sft": "demonstrations", "eval": "outputs"}
# The manifest leaves these two to us: an array is an array whatever its name is; UTF-16 is reported.
WANTED = {"json_array_named.jsonl": "accept", "sft_utf16.json": "reject"}


def cases(shared_data):
    for entry in json.loads((shared_data / "bad" / "manifest.json").read_text()):
        for kind in LOADERS if entry["kind"] == "any" else [OURS.get(entry["kind"], entry["kind"])]:
            yield entry, kind


def test_check_gives_the_wanted_outcome_and_counts_the_good_rows(shared_data):
    seen = 0
    for entry, kind in cases(shared_data):
        report = check_file(shared_data / "bad" / entry["file"], kind)
        outcome = "reject" if report.num_problems else "warn" if report.num_warnings else "accept"
        assert outcome == WANTED.get(entry["file"], entry["expect"]), entry["file"]
        if entry["good_rows"] is not None and entry["file"] != "sft_utf16.json":
            assert report.good_rows == entry["good_rows"], entry["file"]
        assert all(entry["file"] in where and what for where, what in report.problems)
        seen += 1
    assert seen >= 27


def test_loading_gives_the_wanted_outcome(shared_data):
    for entry, kind in cases(shared_data):
        file = DataFile(path=str(shared_data / "bad" / entry["file"]))
        warnings: list[str] = []
        if WANTED.get(entry["file"], entry["expect"]) == "reject":
            with pytest.raises(DataError) as error:
                LOADERS[kind](file, 0, warn=warnings.append)
            assert entry["file"] in error.value.where
            assert error.value.mend
        else:
            assert LOADERS[kind](file, 0, warn=warnings.append)
            assert bool(warnings) == (entry["expect"] == "warn"), entry["file"]


@pytest.mark.parametrize(
    ("name", "kind", "what", "where"),
    [
        ("pref_truncated.jsonl", "preferences", "1 of 8 rows are not preferences: not JSON: cut short", "line 8"),
        ("pref_invalid_utf8.jsonl", "preferences", "not UTF-8: byte 0xe9 at byte 30", "line 4"),
        (
            "sft_missing_column.json",
            "demonstrations",
            "2 of 4 rows are not demonstrations",
            "row 2 on line 1 (also row 4)",
        ),
        ("annotations_nan_scores.json", "annotations", "NaN is not JSON", "row 2 on line 3 (also rows 3, 4)"),
        ("pref_duplicate_ids.jsonl", "preferences", "the id 'p1' stands at", "line 3 (also 5)"),
        ("lfs_pointer.parquet", "preferences", "the file is a git-lfs pointer", "lfs_pointer.parquet"),
        ("html_error_page.json", "prompts", "the file is an HTML page", "html_error_page.json"),
        ("sft_utf16.json", "demonstrations", "the file is UTF-16 text", "sft_utf16.json"),
        ("pref_cut.jsonl.gz", "preferences", "the gzip stream is cut short", "line 187"),
        ("deep_nesting.json", "samples", "nested too deeply", "row 1 on line 1"),
    ],
)
def test_the_message_says_what_and_where(shared_data, name, kind, what, where):
    with pytest.raises(DataError) as error:
        LOADERS[kind](DataFile(path=str(shared_data / "bad" / name)), 0)
    assert what in error.value.what
    assert error.value.where.endswith(where)


def test_a_missing_column_names_what_is_there_and_how_to_map_it(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "q", "chosen": "a", "reject": "b"}] * 3
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as error:
        load_preferences(DataFile(path=str(path)), 0)
    assert error.value.what == "3 of 3 rows are not preferences: the row has no `rejected`"
    assert error.value.where == f"{path}, line 1 (also 2, 3)"
    assert error.value.found == "prompt, chosen, reject"
    assert error.value.mend == "rename the field, or --set data.preferences.fields.rejected=reject"


def test_carriage_returns_at_line_ends_are_gone(shared_data, tmp_path):
    for pair in load_preferences(DataFile(path=str(shared_data / "bad" / "pref_crlf.jsonl")), 0):
        assert "\r" not in pair.prompt.instruction + pair.chosen + pair.rejected
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "a\r\nb\r", "output": "c\r\n\rd"}))
    [demonstration] = load_demonstrations(DataFile(path=str(path)), 0)
    assert (demonstration.prompt.instruction, demonstration.output) == ("a\nb", "c\n\rd")


def test_the_megabyte_line_is_whole_and_noted(shared_data):
    path = shared_data / "bad" / "sft_one_mb_line.jsonl"
    assert max(len(row.output) for row in load_demonstrations(DataFile(path=str(path)), 0)) > 1_000_000
    [note] = check_file(path, "demonstrations").notes
    assert "1,044,000 characters" in note


def test_warned_pairs_are_left_out(shared_data):
    pairs = load_preferences(DataFile(path=str(shared_data / "bad" / "pref_chosen_equals_rejected.jsonl")), 0)
    assert [pair.meta["pair_id"] for pair in pairs] == ["p0", "p3"]
    pairs = load_preferences(DataFile(path=str(shared_data / "bad" / "pref_duplicate_keys.jsonl")), 0)
    assert [pair.meta["pair_id"] for pair in pairs] == ["p1", "p2"]


def test_missing_preferences_are_dropped_and_draws_are_one_and_a_half(shared_data, tmp_path):
    rows = json.loads((shared_data / "bad" / "annotations_out_of_range.json").read_text())
    path = tmp_path / "good.json"
    path.write_text(json.dumps([row for row in rows if row["preference"] not in (3, -1, "2")]))
    assert [row.preference for row in load_annotations(DataFile(path=str(path)))] == [2.0, 1.0, 1.5, 1.5]


def test_the_recursion_limit_is_untouched(shared_data):
    before = sys.getrecursionlimit()
    check_file(shared_data / "bad" / "deep_nesting.json", "prompts")
    assert sys.getrecursionlimit() == before
