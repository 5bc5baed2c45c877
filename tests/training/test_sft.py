from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from training.tiny_tasks import DEMONSTRATIONS, Recorder, sft_task

from rlp_engine.config.schema import RunConfig
from rlp_engine.data.records import Demonstration
from rlp_engine.errors import DataError
from rlp_engine.stages.sft import tell_left_out


def gradients(task, rows):
    """Loss of a minibatch from its shares, and the gradient of every weight."""
    loss = 0.0
    for share in task.loss_shares(rows):
        value = share()
        value.backward()
        loss += float(value.detach())
    return loss, {name: p.grad.clone() for name, p in task.policy.model.named_parameters()}


def test_the_loss_is_the_mean_over_response_tokens_of_plain_transformers(folder):
    task = sft_task(folder)
    model, tokenizer = task.policy.model, task.policy.tokenizer
    total, tokens = 0.0, 0
    for i in (0, 1, 2, 7):
        prompt = tokenizer(DEMONSTRATIONS[i].prompt.instruction)["input_ids"]
        response = [*tokenizer(DEMONSTRATIONS[i].output)["input_ids"], tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + response])
        total += model(torch.tensor([prompt + response]), labels=labels).loss.item() * len(response)
        tokens += len(response)
    loss, _ = gradients(task, [0, 1, 2, 7])
    assert loss == pytest.approx(total / tokens, rel=1e-5)


def test_the_microbatch_changes_neither_loss_nor_gradients(folder):
    rows = list(range(12))
    whole_loss, whole = gradients(sft_task(folder, microbatch=12), rows)
    loss, found = gradients(sft_task(folder, microbatch=1), rows)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5)


def test_the_policy_learns_its_demonstrations(folder):
    task = sft_task(folder, epochs=20)
    losses = [task.step(step)["loss"] for step in range(1, task.total_steps + 1)]
    assert task.total_steps == 12 * 20 // 5
    assert losses[-1] < 0.6 * losses[0]


def test_a_demonstration_whose_prompt_fills_the_length_is_left_out_and_said(folder):
    assert sft_task(folder, max_length=6).num_without_response == 0
    long = Demonstration(replace(DEMONSTRATIONS[0].prompt, instruction="what colour is the sky " * 9), "blue")
    task = sft_task(folder, [long, *DEMONSTRATIONS], max_length=16)
    reporter, config = Recorder(), RunConfig(sft=task.config)
    spec = SimpleNamespace(name="sft")
    tell_left_out(SimpleNamespace(reporter=reporter, config=config, spec=spec), task, 13)
    assert reporter.warned == [
        "sft: 5 of 13 demonstrations are longer than sft.max_length = 16 tokens and are cut",
        "sft: 1 of 13 demonstrations have no response within sft.max_length = 16 tokens and are left out",
    ]
    with pytest.raises(DataError, match="none of 12 demonstrations has a response within 5 tokens"):
        sft_task(folder, max_length=5)  # "what colour is sky ?" has 5
