"""One sandbox run with nothing done, and one with its first stages done."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_process import SANDBOX, run_rlp

Rlp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def rlp() -> Rlp:
    return run_rlp


@pytest.fixture
def new_run(tmp_path: Path) -> Path:
    """A sandbox run in which nothing is done."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "run.toml").write_text(SANDBOX)
    return run_dir


@pytest.fixture(scope="session")
def sft_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with `prepare` and `sft` done. Read it; a test that changes it takes `changeable_run`."""
    run_dir = tmp_path_factory.mktemp("runs") / "sft"
    run_dir.mkdir()
    (run_dir / "run.toml").write_text(SANDBOX)
    run_rlp("run", run_dir, "--until", "sft")
    return run_dir


@pytest.fixture
def changeable_run(sft_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sft_run, tmp_path / "copy", symlinks=True)
