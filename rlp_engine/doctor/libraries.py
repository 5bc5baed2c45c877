"""What a process holds before any model: libraries, and freed blocks that the C library keeps. Measured, not guessed.

`measure` starts `python -m rlp_engine.doctor.libraries`, which imports what a training stage imports, trains two toy
models and prints what that took. The first toy is so small that only the libraries' own pages count (code and work
space that are touched at first use). The second one is reckoned with `shapes` like any model; what its training took
above that is the C library's: glibc serves blocks below 32 MiB from one heap, where freed ones lie between live ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import import_module

from rlp_engine.errors import ModelError
from rlp_engine.run.resources import peak_memory_bytes, reset_peak_memory, resident_memory_bytes

HEAP_LIMIT = 32 * 2**20  # glibc's M_MMAP_THRESHOLD_MAX on 64 bits: larger blocks come from the system and go back to it
TOY = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
CALIBRATION = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 424,
}
ROWS, PROMPT, RESPONSE, UPDATES = 24, 40, 56, 4


@dataclass(frozen=True)
class Libraries:
    """Bytes of a stage's process with no model in it, and what a heap block costs."""

    light: int  # no torch: `prepare`, and `collect` from a file
    imported: int  # torch, transformers, accelerate and peft, before any of them has computed
    training: int  # with all that they touch when a model computes and learns
    drift: int  # what `embed` has besides: scikit-learn and scipy
    heap_factor: float  # resident bytes per byte of blocks below HEAP_LIMIT in training; 1 = nothing is kept


def measure() -> Libraries:
    """Of this machine, in a process of its own; the caller is the process that stages start in, without torch.

    Raises:
        ModelError: the libraries cannot be imported or do not work.
    """
    assert "torch" not in sys.modules, "the caller stands for a process without it"
    command = [sys.executable, "-m", "rlp_engine.doctor.libraries", str(_held())]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise ModelError(
            "the libraries that stages need do not work",
            where=sys.executable,
            found=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1],
            mend="install rlp again in a fresh environment (make setup)",
        )
    return Libraries(**json.loads(done.stdout.splitlines()[-1]))


def _held() -> int:
    return resident_memory_bytes() or peak_memory_bytes()


def _main(before: int) -> None:
    """`before`: what the process of the caller holds."""
    _import("rlp_engine.config.load", "rlp_engine.stages.pipeline")
    own = before - _held()  # the caller has a command line, this process has none
    light = _import("rlp_engine.stages.prepare")
    imported = _import("rlp_engine.stages.ppo", "rlp_engine.stages.refine_rm", "transformers.models.llama")
    _train(TOY, rows=1, prompt=4, response=4)
    used = _held()
    reset_peak_memory()
    reckoned = _train(CALIBRATION, rows=ROWS, prompt=PROMPT, response=RESPONSE)
    heap_factor = max(1.0, (peak_memory_bytes() - used - reckoned["states"]) / reckoned["heap"])
    without = _held()
    drift = _import("rlp_engine.stages.embed") - without
    found = Libraries(own + light, own + imported, own + used, drift, round(heap_factor, 3))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


def _import(*names: str) -> int:
    """What the process holds after these imports."""
    for name in names:
        import_module(name)
    return _held()


def _train(widths: dict[str, int], *, rows: int, prompt: int, response: int) -> dict[str, int]:
    """A few updates of two microbatches of a random Llama; what `shapes` says it held at most."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlp_engine.config.sections.training import OptimizerConfig
    from rlp_engine.doctor import shapes
    from rlp_engine.doctor.architecture import shape_of
    from rlp_engine.generation.logprobs import response_logprobs
    from rlp_engine.models.response_rows import pack
    from rlp_engine.training.optimizer import ParameterGroup, Updater

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(**widths, max_position_embeddings=256, tie_word_embeddings=True)
    shape = shape_of(config, is_policy=True)
    module = LlamaForCausalLM(config).train()
    group = ParameterGroup("toy", {"toy": module})
    updater = Updater([group], OptimizerConfig(), UPDATES, torch.device("cpu"))
    ids = torch.randint(widths["vocab_size"], (rows, prompt + response)).tolist()
    packed = pack([row[:prompt] for row in ids], [row[prompt:] for row in ids], pad_id=0, device=torch.device("cpu"))

    def share() -> torch.Tensor:
        return -response_logprobs(module, packed).mean()

    for index in range(UPDATES):
        updater.update([share, share], index)
    held = shapes.training_saved(shape, rows * (prompt + response), 4, checkpointing=False)
    held += shapes.logprob_held(shape, rows * response, 4, gradients=True)
    states = shape.parameters * shapes.FLOAT32 * (1 + shapes.TRAINING_NUMBERS)
    return {"states": states, "heap": shapes.total(held)}


if __name__ == "__main__":
    _main(int(sys.argv[1]))
