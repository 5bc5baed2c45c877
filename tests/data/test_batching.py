import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlp_engine.data.batching import length_groups, pad


def test_padding_on_the_left_ends_every_row_at_the_same_place():
    ids, attention = pad([[5, 6, 7], [8]], pad_id=0, side="left")
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert attention.tolist() == [[True, True, True], [False, False, True]]
    assert (ids.dtype, attention.dtype) == (torch.int64, torch.bool)


def test_padding_on_the_right_starts_every_row_at_the_same_place():
    ids, attention = pad([[5, 6, 7], [8]], pad_id=0, side="right")
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert attention.tolist() == [[True, True, True], [True, False, False]]


def test_a_token_that_equals_the_pad_id_counts():
    assert pad([[0, 4], [4]], pad_id=0, side="left")[1].tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize("sequences", [[], [[], []]])
def test_nothing_to_pad_is_refused(sequences):
    with pytest.raises(ValueError, match="at least one token"):
        pad(sequences, pad_id=0, side="left")


def test_a_group_holds_as_many_tokens_as_so_many_of_the_longest():
    assert length_groups([3, 9, 1, 9, 4], 2) == [[1, 3], [4, 0, 2]]  # 18 tokens; 3 x 4 in the second
    assert length_groups([4, 4, 4, 4], 3) == [[0, 1, 2], [3]]


def test_a_group_ends_where_sequences_become_much_shorter():
    assert length_groups([40] * 8 + [3] * 8, 64) == [list(range(8)), list(range(8, 16))]
    assert len(length_groups([40] * 8 + [30] * 8, 64)) == 1


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_groups_hold_every_index_once_within_the_budget(lengths, size):
    groups = length_groups(lengths, size)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) * max(lengths[i] for i in group) <= size * max(lengths) for group in groups)


def test_a_group_of_none_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        length_groups([1], 0)
