import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlp_engine.config.sections.data import SandboxConfig
from rlp_engine.data.records import Prompt
from rlp_engine.sandbox.answers import Demonstrator
from rlp_engine.sandbox.data import World
from rlp_engine.sandbox.facts import FACTS
from rlp_engine.sandbox.gold import gold, gold_parts

FACT = {fact.fact_id: fact for fact in FACTS}
SUM = FACT["sum-two-three"]
LONG = "that is a very good question . let me think about it for a moment . it is five ."  # 6 + 8 + 3 = 17 words
POLITE_LONG = f"{LONG} glad to help !"  # 20 words


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("it is five . have a nice day !", 1.6 + 0.6 + 0.6),
        ("five .", 1.6),
        ("it is five .", 1.6 + 0.6),
        ("two plus three is five .", 1.6 + 0.6),
        ("it is six .", 0.6),
        ("it is five . have a nice day ! glad to help !", 1.6 + 0.6 + 0.3),
        ("five . glad to help ! glad to help ! glad to help !", 1.6 + 0.0),
        ("maybe it is five .", 1.6 + 0.6 - 0.6),
        ("it is five . i am not sure .", 1.6 + 0.6 - 0.6),
        ("it is five . yes , it is five .", 1.6 + 0.6 - 0.6),
        (LONG, 1.6 + 0.6 - 3 * 0.08),
        (POLITE_LONG, 1.6 + 0.6 + 0.6 - 6 * 0.08),
        ("it is five or six .", 0.6 - 0.3),
        ("i do not know .", -0.3),
        ("", -0.3),
    ],
)
def test_rewards_worked_by_hand(text, reward):
    assert gold(SUM, text) == pytest.approx(reward, abs=1e-12)


def test_an_answer_that_was_cut_off_loses_one():
    assert gold(SUM, "it is five .", "length") == pytest.approx(gold(SUM, "it is five .") - 1.0)


def test_a_list_wants_two_members_of_the_kind():
    animals = FACT["list-animals"]
    assert gold(animals, "it is dog and cat .") == pytest.approx(2.2)
    assert gold(animals, "it is dog and hammer .") == pytest.approx(0.6)
    assert gold(animals, "it is dog .") == pytest.approx(0.6 - 0.3)  # too little is unclear
    assert gold(animals, "it is dog and cat or cow .") == pytest.approx(0.6 - 0.3)


@given(st.integers(0, 93), st.integers(0, 1000), st.sampled_from(["stop", "length"]))
def test_the_parts_add_up_and_no_answer_beats_the_ideal_one(number, draw, finish_reason):
    text = Demonstrator(0).answer(FACTS[number], draw).text
    parts = gold_parts(FACTS[number], text, finish_reason)
    assert parts["gold"] == pytest.approx(parts["correct"] + parts["style"])
    style = ("sentence", "polite", "hedge", "repetition", "length", "unclear", "unfinished")
    assert parts["style"] == pytest.approx(sum(parts[name] for name in style))
    assert parts["gold"] <= 2.8 + 1e-12


def test_the_world_gives_the_same_reward_for_its_own_prompts():
    prompt = Prompt("any", "hello ! compute two plus three .")
    world = World(SandboxConfig())
    assert world.gold(prompt, "it is five .") == gold(SUM, "it is five .")
    assert world.gold_parts(prompt, "it is five .") == gold_parts(SUM, "it is five .")
    assert world.same_meaning(prompt, "five .", "it is five .")


def test_the_weight_of_style_scales_style_and_leaves_correctness():
    text = "it is five . have a nice day !"
    full, light = gold_parts(SUM, text), gold_parts(SUM, text, style_weight=0.25)
    assert light["correct"] == full["correct"] == 1.6
    assert light["style"] == pytest.approx(0.25 * full["style"]) != 0
    assert light["polite"] == pytest.approx(0.25 * full["polite"])
    assert gold(SUM, text, style_weight=0.25) == pytest.approx(1.6 + light["style"])
    light_world = World(SandboxConfig(style_weight=0.25))
    prompt = Prompt("any", "hello ! compute two plus three .")
    assert light_world.gold(prompt, text) == light_world.gold_parts(prompt, text)["gold"] == light["gold"]
