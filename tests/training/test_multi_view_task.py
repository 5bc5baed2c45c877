from collections import defaultdict

import pytest
import torch
from training.tiny_tasks import ANSWERS, multi_view_task

from rlp_engine.data.records import Prompt
from rlp_engine.training.multi_view_task import combined
from rlp_engine.training.views import PolicyAnswers


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


def test_the_warmup_trains_heads_and_critic_alone_and_then_everything_learns(folder):
    task = multi_view_task(folder)
    parts = {"reward": task.reward_model, "heads": task.heads, "critic": task.critic}
    before = {name: weights(part) for name, part in parts.items()}
    for step in (1, 2, 3):
        metrics = task.step(step)
        assert metrics["warmup"] == 1
        assert metrics["beta"] == pytest.approx(1e-3)
        assert "bradley_terry" not in metrics
    assert torch.equal(weights(task.reward_model), before["reward"])
    assert not torch.equal(weights(task.heads), before["heads"])
    assert not torch.equal(weights(task.critic), before["critic"])
    metrics = task.step(4)
    assert metrics["warmup"] == 0
    assert not torch.equal(weights(task.reward_model), before["reward"])


def test_beta_rises_from_start_to_end_over_the_first_half_of_joint_training(folder):
    task = multi_view_task(folder, warmup_steps=0, epochs=4)  # 10 joint steps
    betas = [task.step(step)["beta"] for step in range(1, task.total_steps + 1)]
    assert betas == pytest.approx([10 ** (-3 * (1 - k / 5)) for k in range(5)] + [1.0] * 5, rel=1e-4)


def test_the_joint_loss_is_bradley_terry_plus_lambda_times_the_multi_view_loss(folder):
    more = [PolicyAnswers(Prompt(f"more-{i}", f"name thing {i}"), ["red .", "it is blue ."]) for i in range(8)]
    task = multi_view_task(folder, answers=ANSWERS + more, warmup_steps=0, weight=0.25, pairs_per_step=16)
    metrics = task.step(1)  # two microbatches of 8
    assert metrics["loss"] == pytest.approx(metrics["bradley_terry"] + 0.25 * metrics["multi_view"], rel=1e-5)


def test_the_multi_view_loss_reaches_the_backbone_and_not_the_reward_head(folder):
    task = multi_view_task(folder, warmup_steps=0)
    for share in task.view_shares(1, defaultdict(list), is_warmup=False):
        share().backward()
    assert all(p.grad is None for p in task.reward_model.head.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in task.reward_model.backbone.parameters())


@pytest.mark.parametrize("kind", ["uml", "mvi", "infomax", "cl"])
def test_every_kind_trains_to_its_end(folder, kind):
    task = multi_view_task(folder, kind=kind, warmup_steps=1)
    metrics = [task.step(step) for step in range(1, task.total_steps + 1)]
    assert task.total_steps == 1 + 5
    assert all(abs(value) < 100 for row in metrics for value in row.values())


def test_heads_do_not_depend_on_what_torch_drew_before(folder):
    first = multi_view_task(folder)
    torch.rand(5)
    assert torch.equal(weights(multi_view_task(folder).heads), weights(first.heads))


def test_a_collapsed_representation_is_told_at_the_end_by_a_continued_task_too(folder):
    settings = {"warmup_steps": 0, "beta_start": 1.0, "beta_ramp": 0.0, "learning_rate": 1e-2, "epochs": 12}
    task = multi_view_task(folder, **settings)
    warned = []
    for step in range(1, task.total_steps + 1):
        if step == task.total_steps - 1:
            state, task = task.state(), multi_view_task(folder, **settings)
            task.restore(state)
        metrics = task.step(step)
        warned += task.warnings()
    assert metrics["collapsed"] == 1
    assert len(warned) == 1
    assert "collapsed" in warned[0]


def test_of_microbatches_the_least_sigma_counts_and_other_diagnostics_add_up():
    assert combined({"min_sigma": [0.3, 0.1], "jsd": [-0.5, -0.25]}) == {"min_sigma": 0.1, "jsd": -0.75}


def test_min_sigma_does_not_depend_on_the_microbatch_of_the_warmup(folder):
    found = []
    for microbatch in (8, 12):  # two parts of 6, and one
        task = multi_view_task(folder, microbatch=microbatch, pairs_per_step=12)
        diagnostics = defaultdict(list)
        for share in task.view_shares(1, diagnostics, is_warmup=True):
            share()
        found.append(combined(diagnostics))
    assert found[0]["min_sigma"] == pytest.approx(found[1]["min_sigma"], abs=1e-5)
    assert found[0]["mean_sigma"] == pytest.approx(found[1]["mean_sigma"], abs=1e-5)
    assert found[0]["min_sigma"] < found[0]["mean_sigma"] - 1e-4
