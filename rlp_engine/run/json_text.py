"""JSON of files that may be damaged or a stranger's: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, to which lists within lists without end are no RecursionError.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deeply") from None
