"""Which rank are we? From the environments that launchers make."""

from __future__ import annotations

import pytest

from rlp_engine.distributed.launch_environment import Place, find_place, first_host, launched_environment, num_gpus
from rlp_engine.errors import ConfigError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "812",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[007-008],login",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "4711",
}


def test_one_process_has_no_place():
    assert find_place({"PATH": "/bin", "SLURM_JOB_ID": "812", "SLURM_NTASKS": "16"}) is None
    batch_script = {name: value for name, value in SRUN.items() if "STEP" not in name} | {"SLURM_PROCID": "0"}
    assert find_place(batch_script) is None, "a batch script has a rank and is no step"
    assert find_place(SRUN | {"SLURM_STEP_NUM_TASKS": "1"}) is None, "srun --pty bash"


def test_torchrun_says_all_of_it():
    assert find_place(TORCHRUN) == Place("torchrun", 3, 4, 1, "node0", 29500)
    assert find_place(TORCHRUN | {"CROSS_RANK": "0"}).started_by == "deepspeed"
    assert find_place(TORCHRUN | {"RLP_LAUNCHER": "accelerate"}).started_by == "accelerate"
    assert find_place(TORCHRUN).variables().items() <= TORCHRUN.items()


def test_srun_meets_at_the_first_host_and_every_rank_finds_the_same_port():
    place = find_place(SRUN)
    assert (place.started_by, place.rank, place.size, place.local_rank) == ("srun", 5, 16, 1)
    assert place.master_host == "gpu007"
    assert not place.has_launcher_of_python
    assert find_place(SRUN | {"SLURM_PROCID": "9"}).master_port == place.master_port
    assert find_place(SRUN | {"SLURM_JOB_ID": "813"}).master_port != place.master_port
    set_by_user = find_place(SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (set_by_user.master_host, set_by_user.master_port) == ("10.0.0.1", 4000)


def test_mpirun_meets_on_this_machine_or_where_the_user_says():
    assert find_place(MPIRUN).master_host == "127.0.0.1"
    elsewhere = MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    with pytest.raises(ConfigError, match="where to meet"):
        find_place(elsewhere)
    assert find_place(elsewhere | {"MASTER_ADDR": "a"}).master_host == "a"


@pytest.mark.parametrize("nodes", ["n1", "n1,n2", "n[1-4]", "n[1,3],m2"])
def test_the_first_host_of_a_node_list(nodes):
    assert first_host(nodes) == "n1"


@pytest.mark.parametrize("change", [{"RANK": "x"}, {"MASTER_PORT": ""}])
def test_nonsense_is_refused(change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is"):
        find_place(TORCHRUN | change)


def test_gpus_are_counted_without_torch(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert num_gpus({}, tmp_path) == 3
    assert num_gpus({"CUDA_VISIBLE_DEVICES": "1,2"}, tmp_path) == 2
    assert num_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == 0


def test_a_thread_each_unless_the_user_said_otherwise():
    assert launched_environment({})["OMP_NUM_THREADS"] == "1"
    assert launched_environment({"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"
