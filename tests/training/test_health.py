import math

import pytest
import torch

from rlp_engine.config.sections.ppo import HealthConfig
from rlp_engine.errors import HealthError
from rlp_engine.training.health import PpoAlarms, check_metrics, check_tensors


def test_the_first_metric_that_is_not_finite_is_named():
    check_metrics({"reward": 1.0, "kl": -0.1})
    with pytest.raises(HealthError, match="kl is inf"):
        check_metrics({"reward": 1.0, "kl": math.inf, "length": math.nan})


def test_a_tensor_that_is_not_finite_is_named_with_how_much_of_it():
    with pytest.raises(HealthError, match="2 of 3 entries of scores are not finite"):
        check_tensors(logprobs=torch.zeros(2), scores=torch.tensor([1.0, math.nan, -math.inf]))


def step(**changes):
    healthy = {"kl": 1.0, "length": 20.0, "eos_share": 0.9, "entropy": 2.0, "distinct_2": 0.5, "score": 0.0}
    return healthy | changes


def test_an_alarm_is_raised_when_a_limit_is_passed_and_again_only_after_it_was_kept():
    alarms = PpoAlarms(HealthConfig(max_kl=5.0))
    assert [len(alarms.look(step(kl=kl))) for kl in (4.0, 6.0, 7.0, 4.0, 6.0)] == [0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("key", "limit", "kept", "passed", "words"),
    [
        ("max_kl", 5.0, {"kl": 5.0}, {"kl": 5.2}, "5.2 nats a sequence"),
        ("max_length_growth", 1.5, {"length": 29.0}, {"length": 31.0}, "1.6 times as long"),
        ("max_eos_drop", 0.25, {"eos_share": 0.7}, {"eos_share": 0.6}, "60% of the answers end in EOS, 90% did"),
        ("max_entropy_drop", 0.5, {"entropy": 1.1}, {"entropy": 0.9}, "fell from 2 to 0.9 nats"),
        ("max_distinct_drop", 0.5, {"distinct_2": 0.3}, {"distinct_2": 0.2}, "fell from 0.5 to 0.2"),
    ],
)
def test_every_limit_is_compared_with_the_first_step_and_warns_or_stops(key, limit, kept, passed, words):
    everything_off = {name: 0.0 for name in HealthConfig.model_fields if name.startswith("max_")}
    warns = PpoAlarms(HealthConfig(**(everything_off | {key: limit})))
    stops = PpoAlarms(HealthConfig(**(everything_off | {key: limit, "stop": [key]})))
    off = PpoAlarms(HealthConfig(**everything_off))
    for changes in ({}, kept):
        assert [alarms.look(step(**changes)) for alarms in (warns, stops, off)] == [[], [], []]
        assert stops.must_stop() == ""
    warned = warns.look(step(**passed))
    assert words in warned[0]
    assert f"ppo.health.{key} is {limit:g}" in warned[0]
    assert f"--set 'ppo.health.stop=[\"{key}\"]'" in warned[0]
    assert stops.look(step(**passed)) == [] == off.look(step(**passed))
    assert words in stops.must_stop()
    assert warns.must_stop() == off.must_stop() == ""


def test_agreement_may_not_fall_while_the_score_rises():
    def told(*measured, pairs=100):
        alarms = PpoAlarms(HealthConfig(max_agreement_drop=0.1), pairs)
        return [alarms.look(step(**dict(zip(("held_out_agreement", "score"), one, strict=False)))) for one in measured]

    warned = told((0.6, 1.0), (0.7, 2.0), (), (0.65, 3.0), (0.55, 3.5))
    assert [len(texts) for texts in warned] == [0, 0, 0, 0, 1]
    assert "agrees with 55% of the held-out pairs, and did with 70%, while the score rose from 2 to 3.5" in warned[4][0]
    assert told((0.7, 2.0), (0.5, 1.9)) == [[], []]  # a policy that got worse at both games nothing
    assert told((0.7, 2.0), (0.5, 2.1), pairs=16) == [[], []]  # chance: 1/4


def test_a_continued_stage_remembers_the_first_step_and_stops_again_until_the_config_changes():
    config = HealthConfig(max_length_growth=1.5, stop=["max_length_growth"])
    before = PpoAlarms(config)
    before.look(step(length=10.0))
    before.look(step(length=16.0))
    for changed, is_stopped in (({}, True), ({"max_length_growth": 2.0}, False), ({"stop": []}, False)):
        after = PpoAlarms(config.model_copy(update=changed))
        after.restore(before.state())
        assert bool(after.must_stop()) is is_stopped
        assert after.state() == before.state()


def test_a_checkpoint_of_before_these_alarms_can_be_continued():
    alarms = PpoAlarms(HealthConfig(max_length_growth=1.5))
    alarms.restore({"first_length": 10.0, "raised": []})
    assert alarms.must_stop() == ""
    assert [len(alarms.look(step(length=length))) for length in (20.0, 31.0)] == [0, 1]
