"""The policy's agreement with held-out pairs: hand-made policies whose agreement is known."""

import dataclasses

import pytest
import torch
from training.tiny_tasks import MODEL, PAIRS, PROMPTS, ppo_task, sft_task, template_of

from rlp_engine.config.sections.model import LoraConfig
from rlp_engine.data.records import PreferencePair
from rlp_engine.errors import HealthError
from rlp_engine.models.policy import load_policy
from rlp_engine.training.agreement import HeldOutAgreement

SENSE = [PreferencePair(prompt, "it is red .", "red . is it") for prompt in PROMPTS]  # the demonstrations make sense
NONSENSE = [dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in SENSE]


def agreement(policy, reference, pairs, max_length=30, rows=5):
    return HeldOutAgreement(
        policy, reference, template_of(policy), pairs, max_length=max_length, rows=rows, temperature=1.0
    )


def test_agreement_is_the_share_of_pairs_whose_chosen_answer_became_likelier(folder):
    reference = load_policy(folder, MODEL)
    assert agreement(reference, reference.model, PAIRS).measure() == 0.5  # ties
    task = sft_task(folder, epochs=8)
    for step in range(1, task.total_steps + 1):
        task.step(step)
    assert agreement(task.policy, reference.model, SENSE).measure() == 1.0
    assert agreement(task.policy, reference.model, NONSENSE, rows=2).measure() == 0.0
    assert agreement(task.policy, reference.model, [*SENSE, *NONSENSE[:4]]).measure() == pytest.approx(12 / 16)


def test_with_adapters_the_reference_is_the_policy_without_them(folder):
    task = sft_task(folder, epochs=12, lora=LoraConfig(rank=4, alpha=64.0))
    watched = agreement(task.policy, None, SENSE)
    assert watched.measure() == 0.5
    for step in range(1, task.total_steps + 1):
        task.step(step)
    assert watched.measure() == 1.0


def test_pairs_without_room_for_an_answer_are_left_out(folder):
    policy = load_policy(folder, MODEL)
    long = dataclasses.replace(PAIRS[0], prompt=dataclasses.replace(PROMPTS[0], instruction="what " * 40))
    assert agreement(policy, policy.model, [long, PAIRS[1]]).count == 1
    assert agreement(policy, policy.model, [long]).count == 0


def test_what_is_not_finite_is_named(folder):
    policy, reference = load_policy(folder, MODEL), load_policy(folder, MODEL)
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(HealthError, match="24 of 24 entries of held_out_log_ratios are not finite"):
        agreement(policy, reference.model, PAIRS).measure()


def test_watching_changes_nothing_that_is_learned(folder):
    alone, watched = ppo_task(folder), ppo_task(folder, held_out_pairs=PAIRS, health={"agreement_every": 2})
    for step in (1, 2, 3):
        expected, found = alone.step(step), watched.step(step)
        assert ("held_out_agreement" in found) is (step == 2)
        assert all(found[name] == value for name, value in expected.items() if not name.endswith("_seconds"))
