import math

import pytest
import torch

from rlp_engine.config.schema import HealthConfig
from rlp_engine.errors import HealthError
from rlp_engine.training.health import PpoAlarms, check_metrics, check_tensors


def test_the_first_metric_that_is_not_finite_is_named():
    check_metrics({"reward": 1.0, "kl": -0.1})
    with pytest.raises(HealthError, match="kl is inf"):
        check_metrics({"reward": 1.0, "kl": math.inf, "length": math.nan})


def test_a_tensor_that_is_not_finite_is_named_with_how_much_of_it():
    with pytest.raises(HealthError, match="2 of 3 entries of scores are not finite"):
        check_tensors(logprobs=torch.zeros(2), scores=torch.tensor([1.0, math.nan, -math.inf]))


def test_an_alarm_is_raised_when_a_limit_is_crossed_and_again_only_after_it_was_kept():
    alarms = PpoAlarms(HealthConfig(max_kl=5.0))
    assert [len(alarms.look(kl, 10.0)) for kl in (4.0, 6.0, 7.0, 4.0, 6.0)] == [0, 1, 0, 0, 1]


def test_length_is_compared_with_the_first_step():
    alarms = PpoAlarms(HealthConfig(max_length_growth=1.5))
    warned = [alarms.look(0.0, length) for length in (20.0, 29.0, 31.0)]
    assert [len(texts) for texts in warned] == [0, 0, 1]
    assert "1.6 times as long" in warned[2][0]


def test_alarms_that_are_off_say_nothing():
    alarms = PpoAlarms(HealthConfig())
    assert alarms.look(1.0, 1.0) + alarms.look(1e9, 1e9) == []


def test_a_continued_stage_remembers_the_first_length():
    before, after = PpoAlarms(HealthConfig(max_length_growth=1.5)), PpoAlarms(HealthConfig(max_length_growth=1.5))
    before.look(0.0, 10.0)
    after.restore(before.state())
    assert len(after.look(0.0, 16.0)) == 1
