"""Tiny causal language models of three kinds, and prompts of unequal length."""

import pytest
import torch
from tiny_causal_models import VOCABULARY, gpt2, llama, mistral

torch.set_num_threads(1)


@pytest.fixture(params=[llama, gpt2, mistral], ids=lambda build: build.__name__)
def model(request):
    torch.manual_seed(11)
    return request.param().eval()


@pytest.fixture
def one_model():
    torch.manual_seed(11)
    return llama().eval()


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in (3, 9, 5, 9, 1, 7)]
