"""Rows that are kept as they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run.journal import Journal


def test_a_torn_last_line_is_cut_and_the_rest_stands(tmp_path: Path):
    path = tmp_path / "pending.jsonl"
    with Journal(path) as journal:
        journal.append({"n": 1, "text": "a\u2028b\r"})
        assert path.read_bytes().endswith(b"}\n")  # there at once, not at the end
        journal.append({"n": 2})
    for torn in (b'{"n": 3', b"\xff\x00", b'{"n": 3}'):
        with open(path, "ab") as file:
            file.write(torn)
        with Journal(path) as journal:
            assert [row["n"] for row in journal.rows] == [1, 2]
            assert journal.rows[0]["text"] == "a\u2028b\r"
    with Journal(path) as journal:
        journal.append({"n": 3})
    with Journal(path) as journal:
        assert [row["n"] for row in journal.rows] == [1, 2, 3]


@pytest.mark.parametrize("line", [b"{]", b"[1]"])
def test_a_damaged_line_before_the_last_is_told(tmp_path: Path, line: bytes):
    path = tmp_path / "pending.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
    with pytest.raises(CorruptArtifactError) as error, Journal(path):
        pass
    assert error.value.where == f"{path}:2"
