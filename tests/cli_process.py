"""The real `rlp` in real processes, for tests/cli."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RLP = str(Path(sys.executable).with_name("rlp"))
SANDBOX = """\
seed = 1
methods = ["spg"]      # one branch
data.source = "sandbox"

[sandbox]
facts = 6
preference_facts = 3
demonstrations_per_form = 2

[model]
init = "scratch"
template = "plain"

[model.scratch]
hidden_size = 16
num_layers = 1
num_heads = 2
intermediate_size = 16
tokenizer = "word"

[generation]
max_new_tokens = 8

[sft]
epochs = 20
minibatch = 8
microbatch = 8

[collect]
annotator.kind = "gold"

[evaluate]
judge.kind = "gold"

[synthesize]
equivalence.kind = "sandbox"
"""


def environment(**more: str) -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | quiet | more


def run_rlp(*words: object, code: int = 0, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command line without a terminal and insist on its exit code."""
    done = subprocess.run(
        [RLP, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(**more),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}, wanted {code}\n{done.stdout}\n{done.stderr}"
    return done
