"""Which pairs no reward model of a run trains on."""

from __future__ import annotations

import pytest

from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.errors import DataError
from rlp_engine.stages.reward_training import split_held_out


def pair(prompt_id: str, instruction: str) -> PreferencePair:
    return PreferencePair(Prompt(prompt_id, instruction), "yes", "no")


def instructions(pairs: list[PreferencePair]) -> set[str]:
    return {" ".join(pair.prompt.instruction.lower().split()) for pair in pairs}


def test_no_instruction_is_on_both_sides_even_where_every_row_has_an_id_of_its_own() -> None:
    # four pairs an instruction, as in a file without a prompt_id column; case and spaces vary
    ways = ("Why {}?", "why {}?", "Why  {}?", "WHY {}?")
    pairs = [pair(f"row-{i:06d}", ways[i % 4].format(i // 4)) for i in range(40)]
    training, held_out = split_held_out(pairs, 8, seed=0)
    assert len(held_out) == 8
    assert len(training) == 32
    assert not instructions(training) & instructions(held_out)


def test_both_sides_keep_the_order_of_the_file_and_nothing_is_lost() -> None:
    pairs = [pair(f"row-{i}", f"question {i}") for i in range(20)]
    training, held_out = split_held_out(pairs, 5, seed=3)
    assert len(held_out) == 5
    assert [p for p in pairs if p in training] == training
    assert [p for p in pairs if p in held_out] == held_out
    assert len(training) + len(held_out) == 20
    assert split_held_out(pairs, 5, seed=3)[1] == held_out
    assert split_held_out(pairs, 5, seed=4)[1] != held_out


def test_a_pair_of_weight_0_is_on_neither_side() -> None:
    pairs = [pair(f"row-{i}", f"question {i}") for i in range(6)]
    pairs[2] = PreferencePair(pairs[2].prompt, "yes", "no", weight=0.0)
    training, held_out = split_held_out(pairs, 2, seed=0)
    assert pairs[2] not in training + held_out
    assert len(training + held_out) == 5
    assert pairs[2] not in split_held_out(pairs, 0, seed=0)[0]


def test_where_nothing_is_left_the_message_says_why() -> None:
    one = [pair(f"row-{i}", "question") for i in range(40)]
    with pytest.raises(DataError, match=r"no pair is left for training: train_rm.held_out = 3 of 40 pairs") as error:
        split_held_out(one, 3, seed=0)
    assert (error.value.where.partition(": ")[2][:14], error.value.mend) == (
        "1 instructions",
        "--set train_rm.held_out=0",
    )
    weightless = [PreferencePair(Prompt("a", "question"), "yes", "no", weight=0.0)]
    with pytest.raises(DataError, match="no preference pair to learn from"):
        split_held_out(weightless, 0, seed=0)
