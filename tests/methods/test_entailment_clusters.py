import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlp_engine.methods.entailment_clusters import (
    ClusterRounds,
    cluster,
    discrete_entropy,
    equivalent,
    first_occurrences,
    forward_decides,
    kuhn_semantic_entropy,
    semantic_entropy,
)


@st.composite
def relations(draw):
    """Any relation between up to 9 items: not symmetric, not transitive."""
    count = draw(st.integers(0, 9))
    return count, draw(
        st.lists(st.lists(st.booleans(), min_size=count, max_size=count), min_size=count, max_size=count)
    )


def run_in_rounds(rounds, relation):
    asked = []
    while not rounds.done:
        questions = rounds.questions()
        asked.extend(questions)
        rounds.answer([relation[leader][item] for leader, item in questions])
    return rounds.cluster_ids, asked


def test_an_item_that_matches_two_leaders_stays_with_the_first():
    related = {(0, 2), (1, 2), (1, 3)}  # 0 and 1 differ; 2 matches both; 3 matches 1, and 2 without being asked
    assert cluster(4, lambda a, b: (a, b) in related) == [0, 1, 0, 1]


def test_only_first_members_are_asked():
    asked = []

    def same_parity(leader, item):
        asked.append((leader, item))
        return (leader - item) % 2 == 0

    assert cluster(5, same_parity) == [0, 1, 0, 1, 0]
    assert asked == [(0, 1), (0, 2), (0, 3), (1, 3), (0, 4)]


@pytest.mark.parametrize(("answer", "questions", "ids"), [(True, 9, [0] * 10), (False, 45, list(range(10)))])
def test_cost_of_one_cluster_and_of_ten(answer, questions, ids):
    rounds = ClusterRounds(10)
    got, asked = run_in_rounds(rounds, [[answer] * 10] * 10)
    assert got == ids
    assert len(asked) == questions


@given(relations())
def test_rounds_ask_the_sequential_questions_and_give_the_sequential_result(drawn):
    count, relation = drawn
    asked = []

    def ask(leader, item):
        asked.append((leader, item))
        return relation[leader][item]

    wanted = cluster(count, ask)
    rounds = ClusterRounds(count)
    ids, questions = run_in_rounds(rounds, relation)
    assert ids == wanted
    assert sorted(questions) == sorted(asked)
    assert rounds.num_clusters == len(set(wanted))


@given(st.lists(relations(), max_size=5))
def test_many_prompts_share_rounds_without_touching_each_other(drawn):
    together = [ClusterRounds(count) for count, _ in drawn]
    num_rounds = 0
    while any(not rounds.done for rounds in together):
        num_rounds += 1
        batch = [(index, pair) for index, rounds in enumerate(together) for pair in rounds.questions()]
        answers = {(index, pair): drawn[index][1][pair[0]][pair[1]] for index, pair in batch}
        for index, rounds in enumerate(together):
            rounds.answer([answers[index, pair] for pair in rounds.questions()])
    for rounds, (count, relation) in zip(together, drawn, strict=True):
        assert rounds.cluster_ids == cluster(count, lambda a, b, relation=relation: relation[a][b])
    assert num_rounds <= max((rounds.num_clusters for rounds in together), default=0)


@given(st.lists(st.integers(0, 3), max_size=9), st.lists(st.booleans(), min_size=16, max_size=16))
def test_twins_need_no_question_and_change_no_result(texts, answers):
    """Any relation between *texts*; a text is equivalent to itself."""

    def same(a, b):
        return texts[a] == texts[b] or answers[4 * texts[a] + texts[b]]

    relation = [[same(a, b) for b in range(len(texts))] for a in range(len(texts))]
    folded = ClusterRounds(len(texts), first_occurrences([str(text) for text in texts]))
    ids, asked = run_in_rounds(folded, relation)
    assert ids == cluster(len(texts), same)
    assert all(texts[a] != texts[b] for a, b in asked)
    assert len({(texts[a], texts[b]) for a, b in asked}) == len(asked)


@given(st.permutations(range(8)))
def test_on_an_equivalence_relation_the_order_does_not_matter(order):
    kind = [0, 0, 0, 1, 1, 2, 3, 3]
    ids = cluster(8, lambda a, b: kind[order[a]] == kind[order[b]])
    for a, b in itertools.combinations(range(8), 2):
        assert (ids[a] == ids[b]) == (kind[order[a]] == kind[order[b]])


def test_results_before_the_last_answer_are_refused_and_so_is_a_wrong_number_of_answers():
    rounds = ClusterRounds(3)
    with pytest.raises(ValueError, match="questions are left"):
        _ = rounds.cluster_ids
    with pytest.raises(ValueError, match="want 2 answers, got 3"):
        rounds.answer([True, True, True])


def test_none_and_one_item_need_no_question():
    assert ClusterRounds(0).cluster_ids == []
    assert ClusterRounds(1).cluster_ids == [0]
    assert cluster(0, lambda a, b: True) == []


@pytest.mark.parametrize("same_as", [[0, 0], [0, 2, 2], [0, 0, 1], [0, 1, -1]])
def test_twins_that_are_no_first_ones_are_refused(same_as):
    with pytest.raises(ValueError, match="first twin"):
        ClusterRounds(3, same_as)


def test_texts_are_twins_after_strip_only():
    assert first_occurrences(["Yes.", " Yes.\n", "yes.", "", "  "]) == [0, 0, 2, 3, 3]


C, N, E = "contradiction", "neutral", "entailment"


@pytest.mark.parametrize(
    ("forward", "backward", "strict", "lax", "non_contradiction"),
    [
        (E, E, True, True, True),
        (E, N, False, True, True),
        (N, E, False, True, True),
        (N, N, False, False, True),
        (E, C, False, False, False),
        (C, E, False, False, False),
        (N, C, False, False, False),
        (C, C, False, False, False),
    ],
)
def test_rules(forward, backward, strict, lax, non_contradiction):
    assert equivalent(forward, backward, "strict") is strict
    assert equivalent(forward, backward, "lax") is lax
    assert equivalent(forward, backward, "non-contradiction") is non_contradiction


@pytest.mark.parametrize(("rule", "decided"), [("strict", {C, N}), ("lax", {C}), ("non-contradiction", {C})])
def test_the_first_direction_alone_can_rule_out(rule, decided):
    assert {label for label in (C, N, E) if forward_decides(label, rule)} == decided


def test_unknown_labels_and_rules_are_refused():
    with pytest.raises(ValueError, match="unknown NLI label 'ENTAILMENT'"):
        equivalent(E, "ENTAILMENT", "strict")
    with pytest.raises(ValueError, match="unknown rule"):
        equivalent(E, E, "loose")


def test_discrete_entropy_runs_from_0_to_ln_n():
    assert discrete_entropy([4, 4, 4]) == 0.0
    assert discrete_entropy(list(range(10))) == pytest.approx(math.log(10))
    assert discrete_entropy([0, 0, 1, 0]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_semantic_entropy_with_equal_likelihoods_is_the_discrete_one():
    ids = [0, 1, 0, 2, 0]
    assert semantic_entropy(ids, [-3.0] * 5) == pytest.approx(discrete_entropy(ids))


def test_entropies_worked_by_hand():
    # cluster masses .2 + .2 = .4 and .1: q = .8, .2
    ids, logprobs = [0, 1, 0], [math.log(0.2), math.log(0.1), math.log(0.2)]
    assert semantic_entropy(ids, logprobs) == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert kuhn_semantic_entropy(ids, logprobs) == pytest.approx(-(math.log(0.4) + math.log(0.1)) / 2)


def test_entropies_of_unlikely_samples_do_not_underflow():
    assert semantic_entropy([0, 1], [-5000.0, -5000.0]) == pytest.approx(math.log(2))
    assert kuhn_semantic_entropy([0, 1], [-5000.0, -5000.0]) == pytest.approx(5000.0)


def test_entropies_refuse_nothing_and_what_does_not_fit():
    with pytest.raises(ValueError, match="no samples"):
        discrete_entropy([])
    with pytest.raises(ValueError, match="want 2 finite"):
        semantic_entropy([0, 1], [-1.0])
    with pytest.raises(ValueError, match="want 1 finite"):
        kuhn_semantic_entropy([0], [math.nan])
