"""A tiny saved policy that every training test starts from."""

import pytest
import torch
from training.tiny_tasks import save_tiny_policy

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("models") / "policy")
