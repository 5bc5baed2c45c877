import itertools

import pytest
from pydantic import ValidationError

from rlp_engine.config.sections.data import SandboxConfig
from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError
from rlp_engine.sandbox.answers import STYLES
from rlp_engine.sandbox.data import FACT_OF_INSTRUCTION, World, fact_of
from rlp_engine.sandbox.facts import DOUBLE_OPENERS, FACTS, OPENERS
from rlp_engine.sandbox.world import FORMS_PER_SPLIT, NUM_WORDINGS, deal_facts

SPLITS = ("preference", "unlabeled", "validation", "test")


@pytest.fixture(scope="module")
def world():
    return World(SandboxConfig(seed=1))


def test_splits_have_the_sizes_of_the_design(world):
    assert len(world.demonstrations()) == 94 * 6 * 7
    assert [len(world.prompts(split)) for split in SPLITS] == [47 * 4, 47 * 20, 47 * 2, 47 * 4]
    assert sum(FORMS_PER_SPLIT.values()) == len(OPENERS) * NUM_WORDINGS


def test_no_instruction_stands_in_two_splits(world):
    tables = [{row.prompt.instruction for row in world.demonstrations()}]
    tables += [{prompt.instruction for prompt in world.prompts(split)} for split in SPLITS]
    assert all(not a & b for a, b in itertools.combinations(tables, 2))


def test_prompt_ids_are_unique_within_a_split(world):
    for split in SPLITS:
        prompts = world.prompts(split)
        assert len({prompt.prompt_id for prompt in prompts}) == len(prompts)


def test_the_same_config_gives_the_same_rows_and_another_seed_gives_others(world):
    again, other = World(SandboxConfig(seed=1)), World(SandboxConfig(seed=2))
    assert again.demonstrations() == world.demonstrations()
    assert all(again.prompts(split) == world.prompts(split) for split in SPLITS)
    assert other.demonstrations() != world.demonstrations()
    assert all(
        forms_of_shared_facts(world, other, split) != forms_of_shared_facts(other, world, split) for split in SPLITS
    )


def forms_of_shared_facts(world, other, split):
    """Prompt ids of this world, for facts that both worlds ask about."""
    shared = {prompt.meta["fact"] for prompt in other.prompts(split)}
    return {prompt.prompt_id for prompt in world.prompts(split) if prompt.meta["fact"] in shared}


def test_only_validation_and_test_bring_a_reference(world):
    assert all(prompt.reference for split in ("validation", "test") for prompt in world.prompts(split))
    assert all(prompt.reference is None for split in ("preference", "unlabeled") for prompt in world.prompts(split))


def test_demonstrations_hold_every_word_of_every_other_split(world):
    # A word tokenizer is trained on the demonstrations: a word that they lack would be read as [UNK].
    known = {word for row in world.demonstrations() for word in f"{row.prompt.instruction} {row.output}".split(" ")}
    texts = [f"{p.instruction} {p.reference or ''}".rstrip() for split in SPLITS for p in world.prompts(split)]
    assert {word for text in texts for word in text.split(" ")} <= known


def test_text_is_lower_case_words_and_marks_with_single_spaces(world):
    texts = [text for row in world.demonstrations() for text in (row.prompt.instruction, row.output)]
    words = {word for text in texts for word in text.split(" ")}
    assert all(word in {".", ",", "?", "!", ":"} or (word.isalpha() and word.islower()) for word in words)


def test_no_two_facts_share_an_instruction():
    assert len(FACT_OF_INSTRUCTION) == len(FACTS) * NUM_WORDINGS * (len(OPENERS) + len(DOUBLE_OPENERS))


def test_a_prompt_is_known_by_its_words(world):
    assert fact_of(Prompt("any id", "hello ! compute two plus three .")).fact_id == "sum-two-three"
    with pytest.raises(DataError, match="not a question of the sandbox"):
        world.gold(Prompt("7", "write a poem"), "roses")


def test_a_small_world_holds_every_kind_and_the_splits_keep_their_shape():
    config = SandboxConfig(facts=24, preference_facts=12, demonstrations_per_form=2)
    facts, preference_facts = deal_facts(config)
    assert {fact.kind for fact in facts} == {fact.kind for fact in FACTS}
    assert preference_facts == facts[:12]
    small = World(config)
    assert len(small.demonstrations()) == 24 * 6 * 2
    assert [len(small.prompts(split)) for split in SPLITS] == [12 * 4, 12 * 20, 12 * 2, 12 * 4]


def test_preferences_cannot_ask_about_facts_that_are_not_demonstrated():
    with pytest.raises(ValidationError, match="must not pass facts"):
        SandboxConfig(facts=10, preference_facts=11)


def test_the_demonstrator_is_right_as_often_as_the_fact_says(world):
    demonstrator = world.demonstrator
    for fact in FACTS[::9]:
        claims = [
            a
            for a in (demonstrator.answer(fact, draw) for draw in range(400))
            if a.style not in ("evading", "two answers")
        ]
        share = sum(answer.claims in fact.answers for answer in claims) / len(claims)
        assert abs(share - demonstrator.correct_share[fact]) < 0.1  # 4 standard errors of 350 draws


def test_the_demonstrator_uses_every_style_in_its_share(world):
    answers = [world.demonstrator.answer(fact, draw) for fact in FACTS for draw in range(50)]
    for style, share in STYLES.items():
        assert abs(sum(answer.style == style for answer in answers) / len(answers) - share) < 0.02


def test_distractors_are_three_different_wrong_answers(world):
    for fact in FACTS:
        distractors = world.demonstrator.distractors[fact]
        assert len(set(distractors)) == 3
        assert not set(distractors) & fact.answers
        assert all(len(wrong) == fact.num_values for wrong in distractors)


def test_preferences_may_ask_about_other_facts_and_nothing_else_changes(world):
    far = World(SandboxConfig(seed=1, preferences_about="other"))
    asked = {split: {fact_of(prompt) for prompt in far.prompts(split)} for split in SPLITS}
    assert not asked["preference"] & asked["unlabeled"]
    assert len(asked["preference"]) == 47
    assert asked["unlabeled"] == asked["validation"] == asked["test"]
    assert far.demonstrations() == world.demonstrations()
    assert all(far.prompts(split) == world.prompts(split) for split in SPLITS if split != "preference")
    with pytest.raises(ValidationError, match="twice preference_facts"):
        SandboxConfig(preference_facts=48, preferences_about="other")
