import pytest
from training.tiny_tasks import ANSWERS, PROMPTS, multi_view_task

from rlp_engine.config.sections.reward import MultiViewConfig
from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError
from rlp_engine.training.views import AnswerViews, PlaceboViews, PolicyAnswers, WordingViews, numbered, view_pairs

SEED_PARTS = (1, 1, "refine-rm")


def encode(prompt, text):
    return [prompt.prompt_id, text]


def pairs_of(answers, size=8):
    return AnswerViews(answers, lambda prompt, text: [text], size, SEED_PARTS)


def test_a_minibatch_never_has_an_instruction_twice_and_its_views_differ():
    pairs = pairs_of(ANSWERS)
    for step in range(1, 30):
        found = pairs.of_step(step)
        assert len({pair.groups for pair in found}) == len(found) == 8
        assert all(pair.views[0] != pair.views[1] for pair in found)


def test_a_step_draws_the_same_pairs_whenever_it_is_asked_and_other_steps_others():
    assert pairs_of(ANSWERS).of_step(5) == pairs_of(ANSWERS).of_step(5)
    steps = [pairs_of(ANSWERS).of_step(step) for step in range(1, 9)]
    assert len({str(step) for step in steps}) == 8


def test_both_orders_of_a_pair_are_drawn():
    answers = [PolicyAnswers(prompt, ["a", "b"]) for prompt in PROMPTS]
    orders = {str(pair.views) for step in range(1, 9) for pair in pairs_of(answers).of_step(step)}
    assert orders == {"(['a'], ['b'])", "(['b'], ['a'])"}


def test_instructions_of_equal_normalised_text_are_one():
    twins = [PolicyAnswers(Prompt(f"twin-{i}", "What colour  is SKY ?"), ["x", "y"]) for i in range(5)]
    pairs = pairs_of([*ANSWERS, *twins])
    for step in range(1, 20):
        assert sum(pair.key[-1] in {"p0", *(t.prompt.prompt_id for t in twins)} for pair in pairs.of_step(step)) <= 1
    seen = {pair.key[-1] for step in range(1, 40) for pair in pairs.of_step(step)}
    assert len(seen & {t.prompt.prompt_id for t in twins}) >= 2  # each of them has its turn


def test_instructions_whose_answers_are_all_equal_are_left_out():
    same = [PolicyAnswers(prompt, ["a", "a"]) for prompt in PROMPTS[:4]]
    pairs = pairs_of([*same, *ANSWERS[4:]])
    seen = {pair.key[-1] for step in range(1, 10) for pair in pairs.of_step(step)}
    assert seen == {prompt.prompt_id for prompt in PROMPTS[4:]}
    with pytest.raises(DataError, match="only 7 of 12 instructions have two different answers, and 8 are needed"):
        pairs_of([*same, PolicyAnswers(PROMPTS[4], ["a", "a"]), *ANSWERS[5:]])


def test_placebo_views_are_of_two_instructions_and_otherwise_those_of_the_paper():
    paper = AnswerViews(ANSWERS, encode, 8, SEED_PARTS)
    placebo = PlaceboViews(ANSWERS, encode, 8, SEED_PARTS)
    for step in range(1, 9):
        found, wanted = placebo.of_step(step), paper.of_step(step)
        assert [pair.views[0] for pair in found] == [pair.views[0] for pair in wanted]
        assert sorted(pair.views[1] for pair in found) == sorted(pair.views[1] for pair in wanted)
        assert all(pair.views[0][0] != pair.views[1][0] for pair in found)
        assert all(pair.groups[0] != pair.groups[1] for pair in found)
        by_group = {pair.groups[0]: pair.views[0][0] for pair in found}
        assert [by_group[pair.groups[1]] for pair in found] == [pair.views[1][0] for pair in found]


TOPICS = [
    PolicyAnswers(Prompt(f"t{topic}-{form}", f"form {form} of {topic}", meta={"topic": topic}), ["a", f"b{topic}", "c"])
    for topic in range(9)
    for form in range(3)
]


def wordings_of(hard_negatives="none", size=8, answers=TOPICS):
    return WordingViews(answers, encode, size, SEED_PARTS, topic="topic", hard_negatives=hard_negatives)


def topic_in(view):
    return view[0].split("-")[0]


@pytest.mark.parametrize("hard_negatives", ["none", "also", "only"])
def test_wordings_are_one_answer_under_two_instructions_that_ask_the_same(hard_negatives):
    for step in range(1, 9):
        for pair in wordings_of(hard_negatives).of_step(step):
            first, second = pair.views
            assert first[1] == second[1]
            assert first[0] != second[0]
            assert topic_in(first) == topic_in(second)


def test_without_hard_negatives_a_topic_comes_once_in_a_minibatch():
    for step in range(1, 9):
        found = wordings_of().of_step(step)
        assert len({topic_in(pair.views[0]) for pair in found}) == 8
        assert {pair.stratum for pair in found} == {None}


@pytest.mark.parametrize(("hard_negatives", "among_topics"), [("also", True), ("only", False)])
def test_hard_negatives_are_of_the_same_topic_with_another_answer(hard_negatives, among_topics):
    seen = set()
    for step in range(1, 9):
        pairs = wordings_of(hard_negatives).of_step(step)
        assert len({topic_in(pair.views[0]) for pair in pairs}) == 2
        for one in pairs:
            for other in pairs:
                is_negative = one.groups[0] != other.groups[1] and one.stratum == other.stratum
                same_topic = topic_in(one.views[0]) == topic_in(other.views[1])
                same_text = one.views[0][1] == other.views[1][1]
                assert is_negative == (not same_text if same_topic else among_topics)
                seen.add((same_topic, same_text))
    assert len(seen) >= 3


def test_every_wording_and_every_answer_has_its_turn():
    views = [view for step in range(1, 200) for pair in wordings_of().of_step(step) for view in pair.views]
    assert {tuple(view) for view in views} == {(a.prompt.prompt_id, text) for a in TOPICS for text in a.texts} | {
        (other.prompt.prompt_id, f"b{a.prompt.meta['topic']}")
        for a in TOPICS
        for other in TOPICS
        if a.prompt.meta == other.prompt.meta
    }


def test_a_topic_needs_two_different_wordings_and_a_step_enough_topics():
    same = [PolicyAnswers(Prompt(f"same-{i}", "ONE  wording", meta={"topic": "x"}), ["a"]) for i in range(2)]
    drawn = [pair for step in range(1, 9) for pair in wordings_of(answers=[*TOPICS, *same]).of_step(step)]
    assert {topic_in(pair.views[0]) for pair in drawn} == {f"t{topic}" for topic in range(9)}
    with pytest.raises(DataError, match="only 7 of 8 topics have two instructions, and 8 are needed"):
        wordings_of(answers=[*TOPICS[:21], *same])


def test_a_prompt_without_the_topic_is_named():
    with pytest.raises(DataError, match="does not say what it asks") as caught:
        wordings_of(answers=[*TOPICS, PolicyAnswers(Prompt("p7", "hello", meta={"subset": "x"}), ["a", "b"])])
    assert "p7" in str(caught.value.where)
    assert caught.value.found == "subset"


@pytest.mark.parametrize("hard_negatives", ["none", "only"])
def test_the_config_chooses_the_views(hard_negatives):
    config = MultiViewConfig(pairs_per_step=8, microbatch=8)
    assert type(view_pairs(config, TOPICS, encode, SEED_PARTS)) is AnswerViews
    placebo = config.model_copy(update={"views": "placebo"})
    assert type(view_pairs(placebo, TOPICS, encode, SEED_PARTS)) is PlaceboViews
    keys = {"views": "wordings", "topic": "topic", "hard_negatives": hard_negatives}
    found = view_pairs(config.model_copy(update=keys), TOPICS, encode, SEED_PARTS).of_step(3)
    assert found == wordings_of(hard_negatives).of_step(3)


def test_the_loss_sees_the_negatives_that_the_views_name(folder):
    """With answers that are all equal no topic has a hard negative."""
    equal = [PolicyAnswers(answer.prompt, ["a"]) for answer in TOPICS]
    task = multi_view_task(folder, view_pairs=lambda encode: wordings_of("only", answers=equal))
    with pytest.raises(ValueError, match="no negatives"):
        task._negatives(task.view_pairs.of_step(1))
    task = multi_view_task(folder, view_pairs=lambda encode: wordings_of("only"))
    pairs = task.view_pairs.of_step(1)
    is_negative = task._negatives(pairs)
    assert is_negative.any()
    for i, j in is_negative.nonzero().tolist():
        assert topic_in(pairs[i].views[0]) == topic_in(pairs[j].views[1])


def test_names_are_numbered_as_they_come():
    assert numbered(["b", ("a", 1), "b", "c"]) == [0, 1, 0, 2]
