"""A tiny run: the whole of Algorithm 1 in about a minute, through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import TINY, rlp, sets


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted tiny run with three branches; tests read it and never change it."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    rlp("run", "--preset", "quickstart", run_dir, *sets(TINY | {"methods": ["uml", "spg", "reseed"]}))
    return run_dir
