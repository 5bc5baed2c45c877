import torch

from rlp_engine.training.rows import live_mask, microbatches, pack


def test_responses_begin_in_one_column_and_padding_is_not_attended():
    rows = pack([[1, 2], [3]], [[4], [5, 6]], pad_id=0, device=torch.device("cpu"))
    assert rows.start == 2
    assert rows.ids_RL.tolist() == [[1, 2, 4, 0], [0, 3, 5, 6]]
    assert rows.attention_RL.tolist() == [[True, True, True, False], [False, True, True, True]]


def test_room_can_be_asked_for_beyond_the_longest_response():
    rows = pack([[1]], [[]], pad_id=0, device=torch.device("cpu"), response_width=3)
    assert rows.ids_RL.tolist() == [[1, 0, 0, 0]]
    assert rows.attention_RL.tolist() == [[True, False, False, False]]


def test_a_token_that_equals_the_padding_still_counts():
    rows = pack([[1]], [[0, 0]], pad_id=0, device=torch.device("cpu"))
    assert rows.attention_RL.all()


def test_microbatches_hold_every_row_once_and_none_is_too_large():
    responses = [[0] * n for n in (1, 9, 30, 2, 2, 30, 14, 1, 8, 3, 3, 29)]
    prompts = [[0]] * 12
    groups = microbatches(range(12), prompts, responses, 5)
    assert sorted(row for group in groups for row in group) == list(range(12))
    assert max(map(len, groups)) == 5
    assert len(responses[groups[0][0]]) == 30  # the longest first


def test_a_microbatch_ends_where_responses_become_much_shorter():
    responses = [[0] * 40] * 8 + [[0] * 3] * 8
    assert microbatches(range(16), [[0]] * 16, responses, 64) == [list(range(8)), list(range(8, 16))]
    alike = [[0] * 40] * 8 + [[0] * 30] * 8
    assert len(microbatches(range(16), [[0]] * 16, alike, 64)) == 1


def test_live_mask_is_true_at_the_tokens():
    assert live_mask([[7], [], [7, 7]], 3).tolist() == [[True, False, False], [False] * 3, [True, True, False]]
