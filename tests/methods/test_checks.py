import pytest
import torch

from rlp_engine.methods.checks import at_least_float32, require_bool, require_same_shape


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.bool, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_low_precision_is_raised_and_high_precision_kept(given, wanted):
    assert at_least_float32(torch.ones(2, dtype=given)).dtype == wanted


def test_equal_shapes_pass_and_broadcasting_ones_are_named():
    require_same_shape(1, first=torch.ones(3), second=torch.zeros(3))
    with pytest.raises(ValueError, match=r"1 axes, got first \(3,\), second \(3, 1\)"):
        require_same_shape(1, first=torch.ones(3), second=torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"second \(1,\)"):
        require_same_shape(1, first=torch.ones(3), second=torch.ones(1))


def test_equal_shapes_of_the_wrong_rank_are_refused():
    with pytest.raises(ValueError, match="2 axes"):
        require_same_shape(2, first=torch.ones(3), second=torch.ones(3))


def test_integer_masks_are_refused():
    with pytest.raises(ValueError, match="is_live must be bool"):
        require_bool(is_live=torch.ones(3, dtype=torch.long))
