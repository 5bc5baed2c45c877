import pytest
import torch

from rlp_engine.config.sections.model import ComputeConfig
from rlp_engine.errors import ConfigError
from rlp_engine.models.device import apply_threads, device_of


def test_auto_is_cuda_where_there_is_one():
    assert device_of(ComputeConfig()).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_of(ComputeConfig(device="cpu")).type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_an_error_with_a_mend():
    with pytest.raises(ConfigError, match="no CUDA device") as error:
        device_of(ComputeConfig(device="cuda"))
    assert "compute.device=auto" in error.value.mend


def test_threads_are_set_and_0_leaves_them():
    before = torch.get_num_threads()
    try:
        apply_threads(ComputeConfig(cpu_threads=2))
        assert torch.get_num_threads() == 2
        apply_threads(ComputeConfig(cpu_threads=0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
