"""The command lines of the launchers that `rlp run DIR --launcher ...` starts. Pure: nothing is run here.

`deepspeed` and `accelerate` start `python -m rlp_cli WORDS` as many times as there are ranks on a machine, with the
variables of `launch_environment`. Recipes that were run: docs/LAUNCHING.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlp_engine.errors import ConfigError

LAUNCHERS = ("none", "deepspeed", "accelerate")
MODULE = "rlp_cli"


@dataclass(frozen=True)
class LaunchRequest:
    """What the options ask for. `launcher` "" = not said: one process, or a rank where a launcher started us."""

    launcher: str = ""
    nproc: int = 0  # ranks on each machine; 0 = one a GPU, one without GPUs
    nnodes: int = 1
    node_rank: int = 0
    master: str = ""  # HOST:PORT of node 0
    hostfile: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError for options that do not go together."""
        if self.launcher and self.launcher not in LAUNCHERS:
            raise _wrong(f"no launcher '{self.launcher}'", want=", ".join(LAUNCHERS))
        given = [name for name in ("nproc", "master", "hostfile") if getattr(self, name)]
        given += ["nnodes"] if self.nnodes > 1 else []
        if not self.spawns and given:
            raise _wrong(f"--{given[0]} needs a launcher", mend="add --launcher deepspeed, or --launcher accelerate")
        if self.hostfile and self.launcher != "deepspeed":
            raise _wrong("--hostfile is for --launcher deepspeed", mend="or give --nnodes, --node-rank and --master")
        if self.hostfile and (self.nnodes > 1 or self.node_rank or self.nproc):
            raise _wrong("--hostfile says how many machines and ranks there are", mend="leave out --nproc and --nnodes")
        if self.nnodes > 1 and not self.master:
            raise _wrong(
                "--nnodes needs --master HOST:PORT", mend="HOST is node 0, seen from the others; any free PORT"
            )
        if self.nnodes == 1 and self.master and not self.hostfile:
            raise _wrong("--master is for several machines", mend="add --nnodes N --node-rank K")
        if not 0 <= self.node_rank < self.nnodes:
            raise _wrong(f"--node-rank {self.node_rank} of {self.nnodes} nodes", want=f"0 to {self.nnodes - 1}")
        if self.master:
            self.meeting_point(0)

    @property
    def spawns(self) -> bool:
        return self.launcher not in ("", "none")

    def meeting_point(self, own_port: int) -> tuple[str, int]:
        """Host and port where the ranks meet: --master, else this machine and `own_port`."""
        if not self.master:
            return "127.0.0.1", own_port
        host, _, port = self.master.rpartition(":")
        if not host or not port.isdigit():
            raise _wrong(f"--master is '{self.master}'", want="HOST:PORT, such as node0:29500")
        return host.strip("[]"), int(port)


def _wrong(what: str, **parts: str) -> ConfigError:
    return ConfigError(what, where="command line", **parts)


def command_line(
    request: LaunchRequest,
    words: Sequence[str],
    *,
    ranks_here: int,
    own_port: int,
    hostfile: str = "",
    devices: Mapping[str, str] | None = None,
) -> list[str]:
    """The launcher's command line.

    Args:
        words: the words of `rlp` that every rank gets.
        ranks_here: ranks on this machine, and on each other one.
        own_port: a free port of this machine, where no --master is given.
        hostfile: for several machines with `deepspeed`: --hostfile, or the file that `hostfile_text` fills.
        devices: what `visible_devices` gave, which the launcher's environment has to hold.
    """
    host, port = request.meeting_point(own_port)
    if request.launcher == "deepspeed":
        start = _deepspeed(request, host, port, hostfile, [] if devices else ["--num_gpus", str(ranks_here)])
    else:
        start = _accelerate(request, host, port, ranks_here)
    return [*start, "--module", MODULE, *words]


def _deepspeed(request: LaunchRequest, host: str, port: int, hostfile: str, how_many: list[str]) -> list[str]:
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank", "--master_port", str(port)]
    if request.hostfile:  # deepspeed starts the other machines by pdsh
        return [*command, "--hostfile", hostfile, *(["--master_addr", host] if request.master else [])]
    if request.nnodes > 1:
        node = ["--no_ssh", "--node_rank", str(request.node_rank), "--master_addr", host]
        return [*command, "--hostfile", hostfile, *node]
    return [*command, *how_many]


def _accelerate(request: LaunchRequest, host: str, port: int, ranks_here: int) -> list[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--use_deepspeed", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--num_processes", str(ranks_here * request.nnodes)]
    command += ["--num_machines", str(request.nnodes), "--main_process_port", str(port)]
    if request.nnodes > 1:
        command += ["--machine_rank", str(request.node_rank), "--main_process_ip", host, "--same_network"]
        command += ["--deepspeed_multinode_launcher", "standard", "--rdzv_backend", "static"]
    return command


def hostfile_text(nnodes: int, ranks_a_node: int) -> str:
    """deepspeed counts machines by a host file even where it is to start none; the names are then only labels."""
    return "".join(f"node-{index} slots={ranks_a_node}\n" for index in range(nnodes))


def visible_devices(environment: Mapping[str, str], ranks_here: int) -> dict[str, str]:
    """deepspeed given a number of ranks uses the first GPUs of the machine, not the first visible ones; given only
    CUDA_VISIBLE_DEVICES it uses those. Returns that variable for as many ranks; empty where it is not set."""
    visible = [word for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[:ranks_here])} if visible else {}
