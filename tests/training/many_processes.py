"""Training tasks in two real processes on DeepSpeed's engine, for tests: the processes are forked from here, so that
the imports are paid once.

    python many_processes.py POLICY OUT STEPS NAME,NAME ZERO,ZERO

trains each task up to STEPS under each ZeRO stage in OUT/zero-N/NAME; run again with more steps, it continues.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
from pathlib import Path

import deepspeed  # noqa: F401  # paid once, before the fork
import torch
from safetensors.torch import save_file
from training import tiny_tasks
from training.tiny_tasks import PAIRS, multi_view_task, pairs_task, ppo_task, sft_task, train

from rlp_engine.config.sections.model import DeepSpeedConfig, LoraConfig
from rlp_engine.distributed.world import join, leave, world
from rlp_engine.errors import HealthError

SIZE = 2
LORA = LoraConfig(rank=2, alpha=4.0)
OFTEN = {"agreement_every": 5}


class BrokenAtRank1:
    """Scores of rank 1's rows, one of which is not finite from step 4 on."""

    def __init__(self) -> None:
        self.step = 0

    def score_responses(self, prompts, texts):
        self.step += 1
        return [math.nan if row == 0 and self.step > 3 and world().rank == 1 else 1.0 for row in range(len(texts))]


TASKS = {
    "sft": lambda folder: sft_task(folder, epochs=9),
    "sft-lora": lambda folder: sft_task(folder, epochs=9, lora=LORA),
    "pairs": lambda folder: pairs_task(folder, epochs=9, microbatch=8),  # one microbatch: rank 1 has none
    "multi-view": lambda folder: multi_view_task(folder, epochs=8),
    "ppo": lambda folder: ppo_task(
        folder, steps=20, rollout_batch=7, minibatch=5, microbatch=2, held_out_pairs=PAIRS[:5], health=OFTEN
    ),
    "ppo-nan": lambda folder: ppo_task(folder, BrokenAtRank1()),
    "ppo-lora": lambda folder: ppo_task(folder, lora=LORA, steps=20, rollout_batch=7, minibatch=5, microbatch=2),
}


def train_up_to(name: str, folder: Path, out: Path, steps: int):
    task = TASKS[name](folder)
    if world().launched and task.updater.engine.zero_optimization_stage() == 3:
        assert not task.updater.engine.optimizer.persistent_parameters  # every weight is in parts
    task.total_steps = min(steps, task.total_steps)
    train(task, out, every_steps=4)
    state = task.state()
    if world().is_leader:
        save_file({key: tensor.contiguous() for key, tensor in state.tensors.items()}, out / "end.safetensors")


def work(rank: int, port: int, folder: Path, out: Path, steps: int, names: list[str], stages: list[int]) -> None:
    torch.set_num_threads(1)
    join(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(SIZE),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    )
    for stage in stages:
        tiny_tasks.DEEPSPEED = DeepSpeedConfig(config_file=write_settings(out, stage))
        for name in names:
            (out / f"zero-{stage}").mkdir(exist_ok=True)
            try:
                train_up_to(name, folder, out / f"zero-{stage}" / name, steps)
            except HealthError as error:
                (out / f"zero-{stage}" / name / f"told-{rank}").write_text(f"{error.exit_code}: {error.what}")
    leave()


def write_settings(out: Path, stage: int) -> str:
    """ZeRO-3 leaves parameters as small as these whole unless told otherwise."""
    settings = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}
    path = out / f"zero-{stage}.json"
    path.write_text(json.dumps(settings))
    return str(path)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main(folder: str, out: str, steps: str, names: str, stages: str) -> int:
    Path(out).mkdir(exist_ok=True)
    port = free_port()
    children = []
    for rank in range(SIZE):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(SIZE))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            code = 1
            try:
                stage_numbers = [int(stage) for stage in stages.split(",")]
                work(rank, port, Path(folder), Path(out), int(steps), names.split(","), stage_numbers)
                code = 0
            finally:
                if code:
                    import traceback

                    traceback.print_exc()
                os._exit(code)
        children.append(child)
    return int(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
