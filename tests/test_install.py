"""What `make setup` has to leave behind, and what the package must not ask for."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_deepspeed_is_installed_and_imports_without_a_gpu():
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    code = "import deepspeed; print(deepspeed.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_no_user_is_pinned_to_a_build_of_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    torch = [line for line in asked if line.replace(" ", "").startswith("torch")]
    assert len(torch) == 1
    assert "==" not in torch[0]
    assert "+" not in torch[0]
