"""From rewards and clusters of a prompt's answers to its decision."""

from __future__ import annotations

import pytest

from rlp_engine.data.records import Prompt
from rlp_engine.stages.synthesize import decide_prompt, shared_rewards

LAST_BIT = 2.0**-22


@pytest.mark.parametrize("prompt_id", ["a", "b", "c"])  # another draw each
def test_equal_answers_make_no_reward_pair_though_padding_moved_a_reward(prompt_id: str) -> None:
    answers, rewards = ["it is four .", "it is four . "], [0.5, 0.5 + LAST_BIT]
    own = shared_rewards(answers, rewards)
    decision = decide_prompt(Prompt(prompt_id, "?"), None, own, selection="reward-pair", gamma=0.5, key=(1,))
    assert decision.reason == "equal"


def test_of_equal_answers_the_first_is_preferred() -> None:
    answers, rewards = ["four", "five", "four", "four"], [1.0, 2.0, 1.0 + LAST_BIT, 1.0 - LAST_BIT]
    own = shared_rewards(answers, rewards)
    assert own == [1.0, 2.0, 1.0, 1.0]
    decision = decide_prompt(Prompt("a", "?"), [0, 1, 0, 0], own, selection="spg", gamma=0.5, key=(1,))
    assert (decision.chosen, decision.rejected) == (0, 1)
