"""Every alarm of `ppo.health` on a run made to misbehave, and none on one that behaves."""

import pytest
from training.tiny_tasks import PAIRS, PROMPTS, Recorder, ppo_task, train

from rlp_engine.config.sections.training import OptimizerConfig
from rlp_engine.data.records import PreferencePair
from rlp_engine.errors import HealthError
from rlp_engine.run.events import MetricsLog
from rlp_engine.run.warned import warned
from rlp_engine.training.checkpoint import newest

EAGER = OptimizerConfig(learning_rate=2e-2, schedule="constant")
RECKLESS = OptimizerConfig(learning_rate=0.3, schedule="constant")
PEOPLE_DISLIKE_IT = [PreferencePair(prompt, "it is red .", "think think think") for prompt in PROMPTS]


class Length:
    def score_responses(self, prompts, texts):
        return [float(len(text.split())) for text in texts]


class Thinking:
    """Pays for one word, so that saying nothing else is best."""

    def score_responses(self, prompts, texts):
        return [float(text.split().count("think")) for text in texts]


def told(task, out, **how):
    """The keys of the alarms that a run raised."""
    reporter = Recorder()
    train(task, out, reporter=reporter, **how)
    keys = (
        "max_kl",
        "max_length_growth",
        "max_eos_drop",
        "max_entropy_drop",
        "max_distinct_drop",
        "max_agreement_drop",
    )
    return {key for key in keys for text in reporter.warned if f"ppo.health.{key} is" in text}


def test_a_healthy_run_is_left_in_peace_and_every_agreement_is_logged(folder, tmp_path):
    task = ppo_task(folder, held_out_pairs=PAIRS, health={"agreement_every": 2})
    assert told(task, tmp_path, log_every=5) == set()
    rows = MetricsLog(tmp_path / "metrics.jsonl").read()
    assert [(row["step"], "held_out_agreement" in row) for row in rows] == [(2, True), (4, True), (5, False), (6, True)]


def test_a_policy_paid_for_length_writes_longer_and_does_not_end(folder, tmp_path):
    limits = {"max_length_growth": 1.15, "max_eos_drop": 0.15}
    task = ppo_task(folder, Length(), steps=3, kl_coefficient=0.0, optimizer=EAGER, health=limits)
    assert told(task, tmp_path) == {"max_length_growth", "max_eos_drop"}


def test_a_policy_paid_for_one_word_repeats_it_against_what_people_prefer(folder, tmp_path):
    task = ppo_task(
        folder,
        Thinking(),
        steps=10,
        kl_coefficient=0.0,
        optimizer=EAGER,
        held_out_pairs=PEOPLE_DISLIKE_IT,
        health={"max_kl": 15.0, "agreement_every": 2},
    )
    assert told(task, tmp_path) == {"max_kl", "max_entropy_drop", "max_distinct_drop", "max_agreement_drop"}


def test_a_reckless_learning_rate_stops_at_a_checkpoint_and_goes_on_only_when_told_to(folder, tmp_path):
    def attempt(**health):
        task = ppo_task(folder, steps=4, optimizer=RECKLESS, health=health)
        return train(task, tmp_path, every_steps=4)

    limits = {"max_entropy_drop": 0.8, "stop": ["max_entropy_drop", "max_kl"]}
    for _ in range(2):  # the second time at once
        with pytest.raises(HealthError, match="stage is stopped after step 2: the entropy fell") as caught:
            attempt(**limits)
        assert caught.value.exit_code == 7
        assert newest(tmp_path / "checkpoints").found.step == 2
        assert [row["step"] for row in MetricsLog(tmp_path / "metrics.jsonl").read()] == [1, 2]
    assert (tmp_path / "samples" / "step_000002.jsonl").exists()
    stopped = [one.step for one in warned(tmp_path / "events.jsonl")["stage"] if "the entropy fell" in one.message]
    assert stopped == [2]
    attempt(**(limits | {"stop": []}))
    assert [row["step"] for row in MetricsLog(tmp_path / "metrics.jsonl").read()] == [1, 2, 3, 4]
