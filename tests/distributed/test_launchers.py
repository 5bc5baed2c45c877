"""The launchers' command lines, and options that do not go together."""

from __future__ import annotations

import sys

import pytest

from rlp_engine.distributed.launchers import LaunchRequest, command_line, hostfile_text, visible_devices
from rlp_engine.errors import ConfigError

WORDS = ["run", "runs/a", "--quiet"]


def line(request, hostfile="", devices=None):
    command = command_line(request, WORDS, ranks_here=2, own_port=4000, hostfile=hostfile, devices=devices)
    assert command[0] == sys.executable
    assert command[-5:] == ["--module", "rlp_cli", *WORDS]
    return " ".join(command[2:-5])


def test_deepspeed_on_one_machine():
    request = LaunchRequest("deepspeed", nproc=2)
    assert line(request) == "deepspeed.launcher.runner --no_local_rank --master_port 4000 --num_gpus 2"
    # With a number it would take the machine's first GPUs, whichever are visible.
    devices = visible_devices({"CUDA_VISIBLE_DEVICES": "3,5,6"}, 2)
    assert devices == {"CUDA_VISIBLE_DEVICES": "3,5"}
    assert line(request, devices=devices) == "deepspeed.launcher.runner --no_local_rank --master_port 4000"
    assert visible_devices({}, 2) == {}


def test_deepspeed_on_several_machines():
    without_ssh = LaunchRequest("deepspeed", nproc=2, nnodes=3, node_rank=1, master="head:29500")
    assert line(without_ssh, "hosts") == (
        "deepspeed.launcher.runner --no_local_rank --master_port 29500 --hostfile hosts"
        " --no_ssh --node_rank 1 --master_addr head"
    )
    assert hostfile_text(2, 8) == "node-0 slots=8\nnode-1 slots=8\n"
    by_ssh = LaunchRequest("deepspeed", hostfile="hosts")
    assert line(by_ssh, "hosts") == ("deepspeed.launcher.runner --no_local_rank --master_port 4000 --hostfile hosts")


def test_accelerate_on_one_machine_and_on_several():
    start = "accelerate.commands.launch --use_deepspeed --mixed_precision no --dynamo_backend no --num_processes"
    assert line(LaunchRequest("accelerate", nproc=2)) == f"{start} 2 --num_machines 1 --main_process_port 4000"
    several = LaunchRequest("accelerate", nproc=2, nnodes=3, node_rank=2, master="[fe80::1]:29500")
    assert line(several) == (
        f"{start} 6 --num_machines 3 --main_process_port 29500 --machine_rank 2 --main_process_ip fe80::1"
        " --same_network --deepspeed_multinode_launcher standard --rdzv_backend static"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"launcher": "horovod"}, "no launcher 'horovod'"),
        ({"nproc": 2}, "--nproc needs a launcher"),
        ({"launcher": "none", "nnodes": 2}, "--nnodes needs a launcher"),
        ({"launcher": "accelerate", "hostfile": "f"}, "--hostfile is for --launcher deepspeed"),
        ({"launcher": "deepspeed", "hostfile": "f", "nproc": 2}, "--hostfile says how many"),
        ({"launcher": "deepspeed", "nnodes": 2}, "--nnodes needs --master"),
        ({"launcher": "deepspeed", "master": "h:1"}, "--master is for several machines"),
        ({"launcher": "deepspeed", "nnodes": 2, "node_rank": 2, "master": "h:1"}, "--node-rank 2 of 2"),
        ({"launcher": "deepspeed", "nnodes": 2, "master": "h"}, "--master is 'h'"),
    ],
)
def test_options_that_do_not_go_together(options, said):
    with pytest.raises(ConfigError, match=said):
        LaunchRequest(**options)
