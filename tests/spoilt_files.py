"""Real files, spoilt somewhere: for benchmarks/fuzz_readers.py and the tests of readers."""

from __future__ import annotations

import json
import random
from typing import Any

ODD_VALUES = (
    None, True, -1, 0, 1, 1e308, 10**30, float("nan"), float("inf"), "", "x", "../..", "/dev/zero", "\x00", "\ud800",
    "\x1b[2J", [], {}, [None], [[]], {"": {}}, {"a": [1]},
)  # fmt: skip
ODD_BYTES = (b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"[", b"]", b"{", b"}", b'"', b"\n", b"=", b"-1", b"1e999", b"NaN")


def spoilt(data: bytes, draw: random.Random) -> bytes:
    """A value of its JSON, or of a line of it, exchanged or taken out; or a few bytes changed, or the end cut."""
    if draw.random() < 0.6 and (found := _spoilt_json(data, draw)) is not None:
        return found
    changed = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        place = draw.randint(0, len(changed))
        changed[place : place + draw.choice((0, 1, 1, 2, 20))] = draw.choice((*ODD_BYTES, bytes([draw.randrange(256)])))
    return bytes(changed[: draw.randint(0, len(changed))] if draw.random() < 0.2 else changed)


def _spoilt_json(data: bytes, draw: random.Random) -> bytes | None:
    lines = [data]
    try:
        value, number = json.loads(data), 0
    except ValueError:
        lines = data.splitlines(keepends=True) or [b""]
        number = draw.randrange(len(lines))
        try:
            value = json.loads(lines[number])
        except ValueError:
            return None
    holder = [value]
    _exchange(holder, draw)
    lines[number] = json.dumps(holder[0]).encode() + b"\n"
    return b"".join(lines)


def _exchange(holder: Any, draw: random.Random) -> None:
    """Walk down at random and spoil one place."""
    places = list(holder) if isinstance(holder, dict) else range(len(holder))
    if not places:
        return
    place = draw.choice(list(places))
    inner = holder[place]
    if isinstance(inner, dict | list) and inner and draw.random() < 0.8:
        _exchange(inner, draw)
    elif isinstance(holder, dict) and draw.random() < 0.2:
        del holder[place]
    elif isinstance(holder, dict) and draw.random() < 0.1:
        holder[draw.choice(("../x", "x", "", "\x00"))] = inner
    else:
        holder[place] = draw.choice(ODD_VALUES)
