from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from rlp_engine.data.records import Prompt
from rlp_engine.randomness import uniforms
from rlp_engine.semantics.cluster import cluster_prompts
from rlp_engine.semantics.equivalence import Comparison


class RandomRelation:
    """An arbitrary relation: not symmetric, not transitive, but always the same for the same question."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.batches: list[list[Comparison]] = []

    def holds(self, prompt: Prompt, leader: str, answer: str) -> bool:
        return uniforms(1, prompt.instruction, prompt.input, leader, answer)[0] < self.share

    def equivalent(self, comparisons: Sequence[Comparison]) -> list[bool]:
        self.batches.append(list(comparisons))
        return [self.holds(*c) for c in comparisons]

    def counts(self) -> dict[str, int]:
        return {"batches": len(self.batches)}


def walk(prompt: Prompt, answers: Sequence[str], relation: RandomRelation) -> tuple[list[int], int]:
    """Algorithm 1 of Kuhn et al. as METHOD 3.1 words it, one answer at a time, and how many leaders it met."""
    leaders: list[str] = []
    ids, steps = [], 0
    for answer in (text.strip() for text in answers):
        for number, leader in enumerate(leaders):
            steps += 1
            if leader == answer or relation.holds(prompt, leader, answer):
                ids.append(number)
                break
        else:
            ids.append(len(leaders))
            leaders.append(answer)
    return ids, steps


ANSWERS = st.lists(st.sampled_from(["a", "b", " b\n", "c", "d", "e", "f", ""]), max_size=10)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["p", "q", "r"]), ANSWERS), max_size=6), st.sampled_from([0.0, 0.15, 0.4, 1.0])
)
def test_batched_clusters_are_those_of_the_sequential_walk(rows: list[tuple[str, list[str]]], share: float) -> None:
    items = [(Prompt(str(i), instruction), answers) for i, (instruction, answers) in enumerate(rows)]
    relation = RandomRelation(share)
    found = cluster_prompts(items, relation)
    walked = [walk(prompt, answers, relation) for prompt, answers in items]
    assert found.cluster_ids == [ids for ids, _ in walked]
    assert found.walked == sum(steps for _, steps in walked)


def test_rounds_of_all_prompts_share_a_batch() -> None:
    relation = RandomRelation(0.0)
    items = [(Prompt(str(i), f"instruction {i}"), list("abcde")) for i in range(20)]
    found = cluster_prompts(items, relation)
    assert [len(batch) for batch in relation.batches] == [80, 60, 40, 20]  # 4, 3, 2, 1 questions a prompt
    assert (found.asked, found.walked, found.all_pairs) == (200, 200, 200)
    assert found.counts == {"batches": 4}


def test_duplicates_and_equal_prompts_ask_nothing_twice() -> None:
    relation = RandomRelation(0.0)
    twice = [(Prompt("1", "same"), ["x", "y ", "y", "x"]), (Prompt("2", "same"), ["x", "y"])]
    found = cluster_prompts(twice, relation)
    assert found.cluster_ids == [[0, 1, 1, 0], [0, 1]]
    assert found.asked == 1  # x against y, once
    assert found.walked == 5  # 1 + 2 + 1 for the first prompt, 1 for the second


def test_prompts_that_differ_in_input_or_meta_are_asked_apart() -> None:
    relation = RandomRelation(0.0)
    prompts = [Prompt("1", "same"), Prompt("2", "same", "input"), Prompt("3", "same", meta={"fact": 1})]
    assert cluster_prompts([(prompt, ["x", "y"]) for prompt in prompts], relation).asked == 3


def test_a_single_answer_or_none_asks_nothing() -> None:
    relation = RandomRelation(1.0)
    found = cluster_prompts([(Prompt("1", "p"), ["x"]), (Prompt("2", "p"), [])], relation)
    assert found.cluster_ids == [[0], []]
    assert relation.batches == []
