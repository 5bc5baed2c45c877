"""The wheel carries the presets and the annotators."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

from tiny_run import ROOT


def test_the_wheel_in_an_empty_environment_lists_its_presets(tmp_path: Path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    # Dependencies come from this environment; its .pth files, the editable install of rlp among them, are not read.
    environment = os.environ | {"PYTHONPATH": site.getsitepackages()[0]}
    where = [python, "-c", "import rlp_engine; print(rlp_engine.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path).stdout
    assert str(tmp_path) in found
    listed = subprocess.run(
        [tmp_path / "empty" / "bin" / "rlp", "presets", "--json"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    names = {preset["name"] for preset in json.loads(listed.stdout)["presets"]}
    assert names == {path.stem for path in (ROOT / "presets").glob("*.toml")}
    annotators = [python, "-c", "from rlp_engine.config.annotators import list_annotators; print(*list_annotators())"]
    found = subprocess.run(annotators, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path).stdout
    assert set(found.split()) == {path.stem for path in (ROOT / "presets" / "annotators").glob("*.toml")}
