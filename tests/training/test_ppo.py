import dataclasses
from collections import Counter, defaultdict

import pytest
import torch
from training.tiny_tasks import GENERATION, MODEL, PROMPTS, ppo_task, reward_of, template_of

from rlp_engine.config.sections.model import LoraConfig
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import DataError, HealthError
from rlp_engine.models.loading import load_config
from rlp_engine.models.lora import add_lora
from rlp_engine.models.policy import load_policy, save_policy
from rlp_engine.models.reward import ResponseScorer, load_reward, save_reward
from rlp_engine.models.scratch import build_scratch
from rlp_engine.models.shared_base import load_reward_adapter, reward_on_base, save_reward_adapter, value_on_base
from rlp_engine.models.value import load_value
from rlp_engine.training.experience import experience_of

ALPACAFARM = {"mask_padding": False, "kl_estimator": "clamped", "whiten_rewards": "keep-mean"}
MODES = pytest.mark.parametrize("mode", [{}, ALPACAFARM], ids=["ours", "alpacafarm"])


class WordCounter:
    """A reward that a policy can learn in a few steps: how often a word is in the answer."""

    def score_responses(self, prompts, texts):
        return [float(text.split().count("think")) for text in texts]


def experience(task, step=1):
    return experience_of(task.collector.collect(step), task.config, task.kl_coefficient)[0]


def gradients(task, found, rows):
    """Loss of a minibatch, gradients of both networks, and combined diagnostics."""
    loss, diagnostics = 0.0, defaultdict(list)
    for share in task.loss_shares(found, rows, diagnostics):
        value = share()
        value.backward()
        loss += value.item()
    networks = {"policy": task.policy.model, "value": task.value_model}
    named = {(n, name): p.grad for n, network in networks.items() for name, p in network.named_parameters()}
    return loss, {name: grad.clone() for name, grad in named.items() if grad is not None}, diagnostics


@MODES
def test_the_ratio_is_1_on_the_first_minibatch(folder, mode):
    task = ppo_task(folder, microbatch=3, **mode)
    _, _, diagnostics = gradients(task, experience(task), list(range(8)))
    assert max(diagnostics["ratio_max"]) == pytest.approx(1.0, abs=1e-4)
    assert sum(diagnostics["clip_fraction"]) == 0
    assert float(sum(diagnostics["ratio_mean"])) == pytest.approx(1.0, abs=1e-4)


def test_the_first_minibatch_has_the_losses_of_its_advantages_and_returns(folder):
    task = ppo_task(folder)
    found = experience(task)
    rows = [3, 0, 8, 15, 1, 2, 5, 6]
    live = found.rollout.is_live_BT[rows]
    _, _, diagnostics = gradients(task, found, rows)
    policy_loss, value_loss = (float(sum(diagnostics[name])) for name in ("policy_loss", "value_loss"))
    assert policy_loss == pytest.approx(-found.advantages_BT[rows][live].mean().item(), abs=1e-5)  # the ratio is 1
    assert value_loss == pytest.approx(0.5 * found.returns_BT[rows][live].square().mean().item(), rel=1e-4)  # V is 0


def test_every_step_and_epoch_has_minibatches_of_its_own(folder):
    task = ppo_task(folder)
    seen = [task.minibatches(step, epoch) for step in (1, 2) for epoch in (0, 1)]
    assert all(sorted(batches[0] + batches[1]) == list(range(16)) for batches in seen)
    assert all(len(batch) == 8 for batches in seen for batch in batches)
    assert len({str(batches) for batches in seen}) == 4


@MODES
def test_the_microbatch_changes_neither_loss_nor_gradients(folder, mode):
    task = ppo_task(folder, microbatch=8, **mode)
    found = experience(task)
    found = found._replace(rollout=found.rollout._replace(logprobs_BT=found.rollout.logprobs_BT - 0.1))  # ratios off 1
    rows = [9, 2, 3, 14, 7, 6, 1, 12]
    whole_loss, whole, _ = gradients(task, found, rows)
    for size in (1, 3):
        other = ppo_task(folder, microbatch=size, **mode)
        loss, parts, _ = gradients(other, found, rows)
        assert loss == pytest.approx(whole_loss, rel=1e-5, abs=1e-5)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-5)


def test_policy_and_value_model_both_learn_and_the_reference_does_not(folder):
    task = ppo_task(folder)
    networks = [task.policy.model, task.value_model.backbone, task.collector.reference]
    before = [torch.cat([p.detach().flatten() for p in network.parameters()]).clone() for network in networks]
    task.step(1)
    after = [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, False, True]


def test_the_first_rollout_has_kl_0_and_values_0(folder):
    rollout = ppo_task(folder).collector.collect(1)
    torch.testing.assert_close(rollout.logprobs_BT, rollout.reference_logprobs_BT, rtol=0, atol=1e-5)
    assert float(rollout.values_BT.abs().max()) == 0.0


def test_live_tokens_are_those_sampled_and_their_logprobs_those_of_the_sampler(folder):
    task = ppo_task(folder, temperature=0.7)
    drawn = task.collector._drawn(1)
    completions, prompts = task.collector._sample(drawn), [one.prompt for one in drawn]
    rollout = task.collector.collect(1)
    assert rollout.prompts == prompts
    assert rollout.response_ids == [completion.token_ids for completion in completions]
    assert rollout.is_live_BT.sum(1).tolist() == [len(completion.token_ids) for completion in completions]
    sampled = torch.tensor([completion.logprob for completion in completions], dtype=torch.float32)
    torch.testing.assert_close(rollout.logprobs_BT.sum(1), sampled, rtol=1e-4, atol=1e-4)
    eos = task.policy.tokenizer.eos_token_id
    assert rollout.ended_B.tolist() == [ids[-1] == eos for ids in rollout.response_ids]


def test_values_are_computed_before_each_token(folder):
    task = ppo_task(folder)
    torch.nn.init.normal_(task.value_model.head.weight)
    rollout = task.collector.collect(1)
    for row in range(3):
        ids = torch.tensor([rollout.prompt_ids[row] + rollout.response_ids[row]])
        values = task.value_model(ids, torch.ones_like(ids).bool())[0]
        start, end = len(rollout.prompt_ids[row]) - 1, ids.shape[1] - 1
        torch.testing.assert_close(rollout.values_BT[row, : end - start], values[start:end], rtol=1e-4, atol=1e-5)


def test_rollouts_do_not_depend_on_how_many_rows_are_decoded_or_forwarded_together(folder):
    one, other = ppo_task(folder, microbatch=1), ppo_task(folder, microbatch=8)
    other.collector.generation = GENERATION.model_copy(update={"rows": 3})
    found, expected = one.collector.collect(2), other.collector.collect(2)
    assert found.response_ids == expected.response_ids
    torch.testing.assert_close(found.logprobs_BT, expected.logprobs_BT, rtol=1e-5, atol=1e-5)


def test_every_prompt_is_visited_once_before_any_is_visited_again(folder):
    task = ppo_task(folder, rollout_batch=8)
    visits = [prompt.prompt_id for step in (1, 2, 3) for prompt in task.collector.collect(step).prompts]
    assert Counter(visits) == {prompt.prompt_id: 2 for prompt in PROMPTS}
    assert len(set(visits[:12])) == 12
    assert visits[:12] != visits[12:]


def test_with_adapters_the_reference_is_the_policy_without_them(folder):
    task = ppo_task(folder, lora=LoraConfig(rank=2, alpha=32.0), steps=3)
    plain = ppo_task(folder)
    for step in (1, 2):
        task.step(step)
    rollout = task.collector.collect(3)
    expected = plain.collector.read(rollout.prompt_ids, rollout.response_ids, 6, plain.collector.reference_logprobs)
    width = rollout.is_live_BT.shape[1]
    live = rollout.is_live_BT
    torch.testing.assert_close(rollout.reference_logprobs_BT[live], expected[:, :width][live], rtol=1e-5, atol=1e-5)
    assert (rollout.logprobs_BT - rollout.reference_logprobs_BT).abs().max() > 1e-3
    trained = {name for name in task.state().tensors if name.startswith("weight/policy")}
    assert trained
    assert all(".lora_" in name for name in trained)


def ppo_with_adapters(folder, trained, on_one_base):
    """Adapters on a trained reward model's base, or beside the merged reward model."""
    lora = LoraConfig(rank=2, alpha=16.0)
    model = MODEL.model_copy(update={"gradient_checkpointing": on_one_base})
    policy = load_policy(folder, model)
    if on_one_base:
        adapter, config = load_reward_adapter(trained / "adapter"), load_config(trained / "model", model)
        reward_model = reward_on_base(policy.model.base_model, adapter, config, policy.tokenizer)
        value_model = value_on_base(policy.model.base_model, reward_model, lora, seed=2)
    else:
        reward_model, value_model = load_reward(trained / "model", model), load_value(trained / "model", model)
        add_lora(value_model, lora, seed=2)
    add_lora(policy.model, lora, seed=1)
    scorer = ResponseScorer(reward_model, template_of(reward_model), microbatch=8, max_length=64)
    return ppo_task(folder, scorer=scorer, policy=policy, value_model=value_model, steps=3)


def test_on_one_base_ppo_learns_what_it_learns_with_a_copy_for_each_role(folder, tmp_path):
    reward_model, lora = reward_of(folder), LoraConfig(rank=2, alpha=16.0)
    add_lora(reward_model, lora, seed=3)
    with torch.no_grad():
        for name, parameter in reward_model.named_parameters():
            parameter.add_(0.1 if ".lora_B" in name else 0.0)
    save_reward(reward_model, tmp_path / "model")
    save_reward_adapter(reward_model, lora, tmp_path / "adapter")
    shared, separate = (ppo_with_adapters(folder, tmp_path, on_one_base) for on_one_base in (True, False))
    for step in (1, 2):
        found, expected = shared.step(step), separate.step(step)
        for name in ("score", "kl", "policy_loss", "value_loss", "loss", "grad_norm"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
    found, expected = shared.collector.collect(3), separate.collector.collect(3)
    assert found.response_ids == expected.response_ids
    for name in ("scores_B", "logprobs_BT", "reference_logprobs_BT", "values_BT"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)
    assert found.values_BT.abs().max() > 1e-3
    assert (found.logprobs_BT - found.reference_logprobs_BT).abs().max() > 1e-3
    tensors, others = shared.state().tensors, separate.state().tensors
    assert tensors.keys() == others.keys()
    for name in tensors:
        torch.testing.assert_close(tensors[name], others[name], rtol=1e-4, atol=1e-5)


def test_the_reward_model_reads_text_with_its_own_tokenizer(folder, tmp_path):
    # another vocabulary in another order: the policy's token ids would mean other words, or none
    save_policy(build_scratch(MODEL, ["teal navy . is it think so i sky what colour ?"], seed=2), tmp_path / "other")
    reward_model = load_reward(tmp_path / "other", MODEL, from_policy=True, seed=1)
    assert reward_model.tokenizer.get_vocab() != load_policy(folder, MODEL).tokenizer.get_vocab()
    scorer = ResponseScorer(reward_model, PromptTemplate("plain", reward_model.tokenizer), microbatch=4, max_length=32)
    rollout = ppo_task(folder, scorer=scorer).collector.collect(1)
    alone = [scorer.score_responses([p], [t])[0] for p, t in zip(rollout.prompts, rollout.texts, strict=True)]
    assert rollout.scores_B.tolist() == pytest.approx(alone, rel=1e-4, abs=1e-5)
    assert not any("[EOS]" in text or "[PAD]" in text for text in rollout.texts)


def test_the_policy_learns_what_is_rewarded(folder):
    task = ppo_task(folder, scorer=WordCounter(), steps=10, kl_coefficient=0.0, microbatch=8)
    scores = [task.step(step)["score"] for step in range(1, 11)]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.2


def test_the_adaptive_coefficient_moves_and_is_in_the_state(folder):
    task = ppo_task(folder, kl_controller="adaptive", kl_target=1000.0, kl_gain=0.5)
    task.step(1)
    assert task.kl_coefficient == pytest.approx(0.1 * (1 - 0.5 * 0.2))
    other = ppo_task(folder, kl_controller="adaptive")
    other.restore(task.state())
    assert other.kl_coefficient == task.kl_coefficient


def test_the_schedule_moves_once_a_step_not_once_an_update(folder):
    task = ppo_task(folder, steps=6)  # linear, warm-up of 2 of peak 5e-3: thirds, then 5e-3 * (1 - k/4)
    rates = [task.step(step)["learning_rate"] for step in (1, 2, 3, 4)]
    assert rates == pytest.approx([5e-3 / 3, 1e-2 / 3, 5e-3, 5e-3 * 0.75])


def test_samples_and_metrics_say_what_a_person_wants_to_know(folder):
    task = ppo_task(folder)
    metrics = task.step(1)
    wanted = {"reward", "score", "kl", "kl_k1", "length", "eos_share", "entropy", "clip_fraction", "ratio_max"}
    assert wanted | {"value_loss", "explained_variance", "distinct_2", "grad_norm"} <= metrics.keys()
    rows = task.samples()
    assert len(rows) == 16
    assert sum(row["score"] for row in rows) / 16 == pytest.approx(metrics["score"], rel=1e-5)
    assert sum(row["tokens"] for row in rows) / 16 == pytest.approx(metrics["length"])
    assert {"prompt_id", "instruction", "response", "kl", "ended"} <= rows[0].keys()


def test_a_score_that_is_not_finite_stops_before_anything_is_learned(folder):
    class Broken:
        def score_responses(self, prompts, texts):
            return [float("nan")] * len(texts)

    task = ppo_task(folder, scorer=Broken())
    before = task.policy.model.lm_head.weight.clone()
    with pytest.raises(HealthError, match="16 of 16 entries of scores are not finite"):
        task.step(1)
    assert torch.equal(task.policy.model.lm_head.weight, before)
    assert len(task.samples()) == 16  # the batch can be read


def test_prompts_that_are_too_long_are_left_out_and_counted(folder):
    task = ppo_task(folder)
    long = dataclasses.replace(PROMPTS[0], prompt_id="long", instruction="what " * 40)
    collector = type(task.collector)
    arguments = (
        task.policy,
        None,
        task.value_model,
        WordCounter(),
        template_of(task.policy),
    )
    assert collector(*arguments, [long, PROMPTS[1]], task.config, GENERATION, (1,)).num_dropped == 1
    with pytest.raises(DataError, match="each of 1 prompts is longer than 16 tokens"):
        collector(*arguments, [long], task.config, GENERATION, (1,))
