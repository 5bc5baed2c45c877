"""`rlp launch-script`: a batch script that runs, stops before the time limit, requeues itself and resumes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from rlp_cli.options import RunDir
from rlp_cli.render import Output
from rlp_engine.errors import ConfigError

SCHEDULERS = ("slurm",)

# srun passes SIGTERM on to its tasks, and ends with the largest of their exit codes: rank 0's 143 (128 + SIGTERM) says
# that a checkpoint is saved. `wait` ends early when a signal comes, so it is called until srun has really ended.
_BODY = """\
# {seconds} s before the time limit Slurm sends this script SIGUSR1. rlp then finishes its step, saves a checkpoint and
# exits with 143, and the job goes back into the queue. `scancel` leaves it Slurm's KillWait (30 s) for the same, and no
# place in the queue.
set -u
is_time_up=0
stop() {{
  is_time_up=1
  kill -TERM "$step"
}}

srun --kill-on-bad-exit=1 {command} &
step=$!
trap stop USR1

wait "$step"
code=$?
while kill -0 "$step" 2> /dev/null; do
  wait "$step"
  code=$?
done

if [ "$is_time_up" = 1 ] && [ "$code" = 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def launch_script(
    output: Output,
    run_dir: RunDir,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=1, help="Machines.")],
    gpus_per_node: Annotated[
        int, typer.Option("--gpus-per-node", metavar="G", min=1, help="GPUs, and so ranks, on each.")
    ],
    scheduler: Annotated[str, typer.Option("--scheduler", metavar="slurm", help="Which one.")] = "slurm",
    time: Annotated[str, typer.Option("--time", metavar="LIMIT", help="Time limit of the job: 24:00:00.")] = "",
    partition: Annotated[str, typer.Option("--partition", metavar="NAME", help="Where it queues.")] = "",
    log: Annotated[str, typer.Option("--output", metavar="PATH", help="The job's log, as sbatch names it.")] = "",
    stop_before: Annotated[
        int, typer.Option("--stop-before", metavar="SECONDS", min=1, help="Before the limit: a step and a checkpoint.")
    ] = 300,
) -> None:
    """Print a batch script for this run. It requeues itself before the time limit, and resumes.

    rlp launch-script DIR --nodes 2 --gpus-per-node 8 --time 24:00:00 > job.sh; sbatch job.sh
    """
    from rlp_engine.config.load import load_run

    if scheduler not in SCHEDULERS:
        raise ConfigError(f"no scheduler '{scheduler}'", where="--scheduler", want=", ".join(SCHEDULERS))
    load_run(run_dir, check_files=False)  # what a job would find out after hours in the queue
    options = {"--time": time, "--partition": partition, "--output": log}
    script = slurm_script(
        [sys.executable, "-m", "rlp_cli", "run", str(run_dir.absolute())],
        name=f"rlp-{run_dir.absolute().name}",
        nodes=nodes,
        tasks_per_node=gpus_per_node,
        stop_before_seconds=stop_before,
        options={name: value for name, value in options.items() if value},
    )
    output.result({"script": script})
    if not output.as_json:
        output.text(script)


def slurm_script(
    command: Sequence[str],
    *,
    name: str,
    nodes: int,
    tasks_per_node: int,
    stop_before_seconds: int,
    options: dict[str, str],
) -> str:
    """The text of a script for sbatch.

    Args:
        command: what each task runs; `rlp run` finds out that it is a rank.
        options: further options of sbatch.

    Raises:
        ConfigError: a value that would end its #SBATCH line, or its name.
    """
    values = {
        "--job-name": name,
        "--nodes": str(nodes),
        "--ntasks-per-node": str(tasks_per_node),
        "--gpus-per-node": str(tasks_per_node),
        "--signal": f"B:USR1@{stop_before_seconds}",
        "--open-mode": "append",
        **options,
    }
    for option, value in values.items():
        if any(letter.isspace() for letter in value):
            raise ConfigError(f"sbatch takes no spaces in {option}: '{value}'", where=option)
    lines = [f"#SBATCH {option}={value}" for option, value in values.items()]
    body = _BODY.format(seconds=stop_before_seconds, command=shlex.join(command))
    return "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", "", body])
