"""`rlp init DIR --preset NAME`: only create the run directory."""

from __future__ import annotations

from pathlib import Path

from rlp_cli.options import Preset, RunDir, Sets
from rlp_cli.render import Output


def init(output: Output, run_dir: RunDir, preset: Preset, sets: Sets = None) -> None:
    """Create a run directory with an editable run.toml."""
    from rlp_engine.config.load import create_run

    create_run(Path(run_dir), preset, sets or [])
    output.show(f"created {run_dir}/run.toml from preset {preset}")
    output.say(f"edit it, then: rlp run {run_dir}")
    output.result({"run_dir": str(run_dir), "preset": preset, "run_toml": str(Path(run_dir) / "run.toml")})
