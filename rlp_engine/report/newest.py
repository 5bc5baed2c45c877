"""Does report.html show the results that the run has now?

The page names the results that it was made of by their digest. Times of files would not do: a clock may have jumped
between the two, and a copy of a run directory has the times of the copying.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

META_NAME = "rlp-results"
_HEAD_BYTES = 4096  # the digest is near the top of the page


def results_digest(run_dir: Path) -> str:
    """Of the record of the finished evaluation; "none" as long as there is none."""
    try:
        return hashlib.sha256((run_dir / "evaluate" / "stage.json").read_bytes()).hexdigest()
    except FileNotFoundError:
        return "none"


def shows_newest(page: Path) -> bool:
    """False without a page, and when its process ended after `evaluate` and before the page."""
    try:
        with page.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return False
    digest = results_digest(page.parent)
    return digest == "none" or f'<meta name="{META_NAME}" content="{digest}">'.encode() in head
