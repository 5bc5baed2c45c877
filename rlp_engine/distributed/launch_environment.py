"""Did a launcher start this process, and as which rank? Read from the environment, without torch.

    torchrun, deepspeed, accelerate    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
    srun                               SLURM_PROCID, SLURM_STEP_NUM_TASKS (or SLURM_NTASKS), SLURM_LOCALID
    mpirun (Open MPI)                  OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK

srun and mpirun name no meeting point. It is then the job's first host and a port that every rank computes alike.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.errors import ConfigError

LAUNCHER = "RLP_LAUNCHER"  # the launcher's name, where `rlp` itself started it
_PORTS = range(20_000, 30_000)  # below what systems give to outgoing connections


@dataclass(frozen=True)
class Place:
    """A rank's place, as its environment says."""

    started_by: str  # torchrun, deepspeed, accelerate, srun, mpirun
    rank: int
    size: int
    local_rank: int
    master_host: str
    master_port: int

    @property
    def has_launcher_of_python(self) -> bool:
        """torchrun and its like: each process is a rank, whatever its command line says. srun and mpirun may also
        start one `rlp run --launcher ...` a node, which starts the ranks."""
        return self.started_by not in ("srun", "mpirun")

    def variables(self) -> dict[str, str]:
        """What torch, DeepSpeed and accelerate read."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.master_host,
            "MASTER_PORT": str(self.master_port),
        }


def find_place(environment: Mapping[str, str]) -> Place | None:
    """This process's place; None when no launcher started it.

    A Slurm batch script, and a step of one task (`srun --pty bash`), are no launch.

    Raises:
        ConfigError: the variables are there and make no sense, or do not say where the ranks meet.
    """
    if "WORLD_SIZE" in environment and "RANK" in environment:
        return _of_python_launcher(environment)
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        size = _number(environment, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS")
        return _of_srun(environment, size) if size > 1 else None
    if "OMPI_COMM_WORLD_RANK" in environment:
        size = _number(environment, "OMPI_COMM_WORLD_SIZE")
        return _of_mpirun(environment, size) if size > 1 else None
    return None


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: `node[003-007,12],login` -> node003."""
    match = re.match(r"([^,\[]+)(?:\[([^\]]*)\])?", nodes)
    if match is None:
        raise ConfigError(f"no host in the node list '{nodes}'", where="SLURM_STEP_NODELIST")
    name, numbers = match.groups()
    return name + re.split("[,-]", numbers)[0] if numbers else name


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def num_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs this process may use, without torch: CUDA_VISIBLE_DEVICES, else what the driver made."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    present = sum(1 for path in devices.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
    return present if visible is None else min(present, len([word for word in visible.split(",") if word.strip()]))


def launched_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """For a launcher and its ranks: one CPU thread each unless the user said otherwise; DeepSpeed's CPU accelerator
    where there is no GPU."""
    changed = dict(environment)
    changed.setdefault("OMP_NUM_THREADS", "1")
    if not num_gpus(environment) and not Path("/dev/kfd").exists():  # the latter: AMD's GPUs
        changed.setdefault("DS_ACCELERATOR", "cpu")
    return changed


def prepare_rank(place: Place) -> None:
    """Put this process's environment in order, before torch is imported.

    `accelerate launch` describes a DeepSpeed engine of its own in variables; ours is described by [deepspeed] alone.
    """
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    os.environ.update(launched_environment(os.environ) | place.variables())


def _of_python_launcher(environment: Mapping[str, str]) -> Place:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise ConfigError(
            f"RANK and WORLD_SIZE are set and {missing[0]} is not: no launcher's environment is like that",
            mend="start through a launcher, or unset RANK and WORLD_SIZE",
        )
    started_by = environment.get(LAUNCHER)
    if started_by is None:
        signs = {"CROSS_RANK": "deepspeed", "ACCELERATE_MIXED_PRECISION": "accelerate"}
        started_by = next((name for variable, name in signs.items() if variable in environment), "torchrun")
    return Place(
        started_by=started_by,
        rank=_number(environment, "RANK"),
        size=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else 0,
        master_host=environment["MASTER_ADDR"],
        master_port=_number(environment, "MASTER_PORT"),
    )


def _of_srun(environment: Mapping[str, str], size: int) -> Place:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    job = f"slurm {environment.get('SLURM_JOB_ID')} {environment['SLURM_STEP_ID']}"
    return Place(
        started_by="srun",
        rank=_number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environment, "SLURM_LOCALID"),
        master_host=environment.get("MASTER_ADDR") or first_host(nodes),
        master_port=_port(environment, job),
    )


def _of_mpirun(environment: Mapping[str, str], size: int) -> Place:
    host = environment.get("MASTER_ADDR")
    if not host and environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(size):
        host = "127.0.0.1"
    if not host:
        raise ConfigError(
            "mpirun does not tell the ranks on other machines where to meet",
            where="MASTER_ADDR is not set",
            mend="mpirun -x MASTER_ADDR=FIRST_HOST -x MASTER_PORT=PORT ... rlp run DIR",
        )
    job = "mpirun " + environment.get("PMIX_NAMESPACE", environment.get("OMPI_MCA_ess_base_jobid", ""))
    return Place(
        started_by="mpirun",
        rank=_number(environment, "OMPI_COMM_WORLD_RANK"),
        size=size,
        local_rank=_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK"),
        master_host=host,
        master_port=_port(environment, job),
    )


def _port(environment: Mapping[str, str], job: str) -> int:
    """MASTER_PORT, else one that every rank of this job finds, and another job most likely does not."""
    if "MASTER_PORT" in environment:
        return _number(environment, "MASTER_PORT")
    return _PORTS[int.from_bytes(hashlib.sha256(job.encode()).digest()[:8], "big") % len(_PORTS)]


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise ConfigError(
            f"{name} is '{text}', not a number: no launcher's environment is like that",
            mend=f"start through a launcher, or unset {name}",
        )
    return int(text)
