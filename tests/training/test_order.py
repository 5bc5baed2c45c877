from collections import Counter

from rlp_engine.training.order import items_between, minibatch_at, steps_of

KEY = (3, 0, "sft", "order")


def test_every_item_comes_once_an_epoch_in_a_new_order():
    first = [item for item, _ in items_between(0, 10, 10, KEY)]
    second = [item for item, _ in items_between(10, 20, 10, KEY)]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_a_place_in_the_sequence_does_not_depend_on_where_one_starts():
    whole = items_between(0, 35, 10, KEY)
    assert items_between(7, 26, 10, KEY) == whole[7:26]
    assert [epoch for _, epoch in whole] == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 5


def test_minibatches_show_every_item_as_often_as_there_are_epochs():
    steps = steps_of(10, 3, 4)
    assert steps == 8  # 30 / 4, rounded up
    batches = [minibatch_at(step, 10, 4, KEY, epochs=3) for step in range(1, steps + 1)]
    assert [len(batch) for batch in batches] == [4] * 7 + [2]
    assert set(Counter(item for batch in batches for item in batch).values()) == {3}


def test_without_epochs_every_minibatch_is_full():
    assert all(len(minibatch_at(step, 3, 4, KEY)) == 4 for step in range(1, 9))


def test_another_key_is_another_order():
    assert items_between(0, 10, 10, KEY) != items_between(0, 10, 10, (4, *KEY[1:]))
