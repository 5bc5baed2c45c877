import dataclasses
from collections import defaultdict

import pytest
import torch
from training.tiny_tasks import PAIRS, pairs_task, sft_task

from rlp_engine.errors import DataError
from rlp_engine.methods.bradley_terry import bradley_terry_loss


def gradients(task, rows):
    """Loss of a minibatch from its shares, and the gradient of every weight."""
    loss, diagnostics = 0.0, defaultdict(list)
    for share in task.batches.loss_shares(rows, diagnostics):
        value = share()
        value.backward()
        loss += float(value.detach())
    found = {name: p.grad.clone() for name, p in task.reward_model.named_parameters() if p.grad is not None}
    return loss, found, {name: sum(values) for name, values in diagnostics.items()}


WEIGHTED = [dataclasses.replace(pair, weight=1 + i % 3) for i, pair in enumerate(PAIRS)]


def test_the_microbatch_changes_neither_loss_nor_gradients(folder):
    rows = list(range(12))
    loss, whole, diagnostics = gradients(pairs_task(folder, WEIGHTED, microbatch=12), rows)
    parts_loss, parts, parts_diagnostics = gradients(pairs_task(folder, WEIGHTED, microbatch=5), rows)
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    assert parts_diagnostics == pytest.approx(diagnostics, rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-5)


def test_the_loss_is_bradley_terry_on_the_models_own_scores(folder):
    task = pairs_task(folder, WEIGHTED)
    rewards = [
        torch.tensor(task.reward_model.score([getattr(task.batches, side)[row] for row in range(4)], microbatch=4))
        for side in ("_chosen", "_rejected")
    ]
    expected = bradley_terry_loss(*rewards, torch.tensor([1.0, 2.0, 3.0, 1.0]))
    loss, _, diagnostics = gradients(task, [0, 1, 2, 3])
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert diagnostics["accuracy"] == float((rewards[0] > rewards[1]).float().mean())


def test_a_pair_of_weight_0_is_as_if_it_were_not_there(folder):
    ignored = [*PAIRS, dataclasses.replace(PAIRS[0], chosen="nonsense", weight=0.0)]
    assert pairs_task(folder, ignored).step(1) == pairs_task(folder, PAIRS).step(1)


def test_the_reward_model_learns_its_pairs(folder):
    task = pairs_task(folder, epochs=15)
    metrics = [task.step(step) for step in range(1, task.total_steps + 1)]
    assert metrics[-1]["loss"] < 0.3 < metrics[0]["loss"]
    assert metrics[-1]["accuracy"] == 1.0


def test_a_control_takes_as_many_steps_as_it_is_told(folder):
    task = pairs_task(folder, total_steps=20)
    assert task.total_steps == 20
    assert all(len(task.batches.rows_of(step, epochs=task.epochs)) == 5 for step in range(1, 21))


def test_no_pairs_is_an_error(folder):
    with pytest.raises(DataError, match="no preference pair"):
        pairs_task(folder, [])


def test_a_training_pass_goes_through_the_layers_once(folder):
    """Ranks under ZeRO-3 go through them together: what a model can do is tried before, not in one rank's pass."""
    reward, policy = pairs_task(folder), sft_task(folder)
    calls = []
    for module in (reward.reward_model.backbone, policy.policy.model.base_model):
        module.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    for share in (next(reward.batches.loss_shares([0, 1], defaultdict(list))), next(policy.loss_shares([0, 1]))):
        calls.clear()
        share()
        assert len(calls) == 1
