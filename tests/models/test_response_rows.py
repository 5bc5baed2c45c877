import pytest
import torch

from rlp_engine.models.response_rows import live_mask, microbatches, pack

CPU = torch.device("cpu")


def test_padding_is_on_the_right_and_states_are_read_before_the_response_tokens():
    rows = pack([[1, 2], [3]], [[4], [5, 6]], pad_id=0, device=CPU)
    assert rows.ids_RL.tolist() == [[1, 2, 4], [3, 5, 6]]
    assert rows.attention_RL is None
    assert rows.live_RT.tolist() == [[True, False], [True, True]]
    assert [rows.before_RT[0, 0].item(), *rows.before_RT[1].tolist()] == [1, 0, 1]
    assert rows.tokens_N.tolist() == [4, 5, 6]
    states = torch.arange(6).view(2, 3)
    assert rows.before_N(states).tolist() == [1, 3, 4]


def test_room_beyond_the_responses_can_be_asked_for_and_is_then_masked():
    rows = pack([[1], [2, 3]], [[], [4]], pad_id=0, device=CPU, response_width=3)
    assert rows.ids_RL.tolist() == [[1, 0, 0, 0, 0], [2, 3, 4, 0, 0]]
    assert rows.attention_RL.tolist() == [[True, False, False, False, False], [True, True, True, False, False]]
    assert rows.before_RT.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert rows.live_RT.tolist() == [[False] * 3, [True, False, False]]


def test_a_token_that_equals_the_padding_still_counts():
    rows = pack([[1]], [[0, 0]], pad_id=0, device=CPU)
    assert rows.tokens_N.tolist() == [0, 0]


def test_a_response_needs_a_token_before_it():
    with pytest.raises(ValueError, match="prompt token"):
        pack([[1], []], [[2], [3]], pad_id=0, device=CPU)


def test_microbatches_hold_every_row_once_and_no_more_tokens_than_so_many_of_the_longest():
    responses = [[0] * n for n in (1, 9, 30, 2, 2, 30, 14, 1, 8, 3, 3, 29)]
    prompts = [[0]] * 12
    groups = microbatches(range(12), prompts, responses, 2)
    assert sorted(row for group in groups for row in group) == list(range(12))
    assert groups[0] == [2, 5]  # the longest first
    for group in groups:
        assert len(group) * max(1 + len(responses[row]) for row in group) <= 2 * 31


def test_live_mask_is_true_at_the_tokens():
    assert live_mask([[7], [], [7, 7]], 3).tolist() == [[True, False, False], [False] * 3, [True, True, False]]
