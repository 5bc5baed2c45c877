"""Bytes that look like data files and are spoilt somewhere, for hypothesis (also benchmarks/fuzz_readers.py)."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

from rlp_engine.data.columns import COLUMNS

NAMES = sorted(
    {name for names in COLUMNS.values() for name in names} | {"split", "meta", "draw", "token_ids", "kwargs"}
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1e308, 0, 1, 2, 1.5])
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["train", "trian", "\n\nHuman: a\n\nAssistant: b", "\ud800", "\x00", "\x1b[2J"]
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), TEXTS | st.just("user"), max_size=2),
    max_size=3,
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | MESSAGES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(NAMES), TEXTS | VALUES, max_size=6), max_size=4)


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, str]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"instruction": ["a", "b"], "output": [["x", "y"], None]}), sink)
    return sink.getvalue()


FORMS = st.sampled_from(
    [lines, lambda rows: json.dumps(rows).encode(), lambda rows: json.dumps(rows, indent=1).encode(), parquet]
)


@st.composite
def hostile_bytes(draw: st.DrawFn) -> bytes:
    """Rows in some form, sometimes compressed, with a few bytes changed, put in, taken out or cut off."""
    data = draw(FORMS)(draw(ROWS))
    is_packed = draw(st.booleans())
    if is_packed and draw(st.booleans()):
        data = gzip.compress(data, mtime=0)
    data = bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        what = draw(
            st.binary(max_size=3) | st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"[", b"}", b"\n", b'"', b"\x00"])
        )
        data[place : place + draw(st.integers(0, 2))] = what
    if draw(st.integers(0, 4)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    if is_packed:
        return gzip.compress(bytes(data), mtime=0)
    return bytes(data)
