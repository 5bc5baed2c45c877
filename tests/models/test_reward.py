import json

import pytest
import torch
from plain_transformers import score_difference
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.data.batching import pad
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import ModelError
from rlp_engine.models.reward import ResponseScorer, load_reward, save_reward

MODEL = ModelConfig()


@pytest.fixture
def reward(policy_folder):
    return load_reward(policy_folder, MODEL, from_policy=True, seed=3)


def test_the_saved_model_scores_alike_in_plain_transformers(policy_folder, sequences, tmp_path):
    reward = load_reward(policy_folder, MODEL, from_policy=True, seed=3)
    save_reward(reward, tmp_path / "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    ids, attention = pad(sequences, reward.tokenizer.pad_token_id, "right")
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=attention.long()).logits[:, 0]
    scores = reward.score(sequences, microbatch=4)
    torch.testing.assert_close(torch.tensor(scores), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01  # the scores differ from each other, so the check says something


def test_the_saved_llama_scores_alike_in_plain_transformers_with_left_padding(llama_folder, sequences, tmp_path):
    # Rotary positions only matter by their differences, so plain transformers need not be told of the padding.
    reward = load_reward(llama_folder, MODEL, from_policy=True, seed=3)
    save_reward(reward, tmp_path / "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    ids, attention = pad(sequences, reward.tokenizer.pad_token_id, "left")
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=attention.long()).logits[:, 0]
    torch.testing.assert_close(torch.tensor(reward.score(sequences, microbatch=9)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_reward_and_no_hidden_state(reward, sequences, side):
    ids, attention = pad(sequences, reward.tokenizer.pad_token_id, side)
    with torch.no_grad():
        together = reward(ids, attention)
        alone = [reward(torch.tensor([s]), torch.ones(1, len(s), dtype=torch.bool)) for s in sequences]
    torch.testing.assert_close(together.rewards_B, torch.cat([a.rewards_B for a in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(together.hidden_BD, torch.cat([a.hidden_BD for a in alone]), rtol=0, atol=1e-5)


def test_scores_keep_their_order_whatever_the_microbatch(reward, sequences):
    one_by_one = reward.score(sequences, microbatch=1)
    assert reward.score(sequences, microbatch=4) == pytest.approx(one_by_one, abs=1e-5)
    assert reward.score(sequences[::-1], microbatch=3) == pytest.approx(one_by_one[::-1], abs=1e-5)


def test_scoring_leaves_the_training_mode_and_makes_no_gradient(reward, sequences):
    reward.train()
    output = reward.embed(sequences, microbatch=2)
    assert reward.training
    assert output.rewards_B.tolist() == pytest.approx((output.hidden_BD @ reward.head.weight[0]).tolist(), abs=1e-5)
    assert not output.rewards_B.requires_grad


def test_the_hidden_state_is_the_one_that_the_head_reads(reward, sequences):
    ids = torch.tensor(sequences[:1])
    with torch.no_grad():
        output = reward(ids, torch.ones_like(ids))
        states = reward.model(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(output.hidden_BD[0], states[-1][0, -1], rtol=0, atol=1e-5)
    torch.testing.assert_close(output.rewards_B[0], output.hidden_BD[0] @ reward.head.weight[0], rtol=0, atol=1e-6)


def test_the_gradient_reaches_backbone_and_head(reward, sequences):
    ids, attention = pad(sequences, reward.tokenizer.pad_token_id, "right")
    reward(ids, attention).rewards_B.sum().backward()
    assert reward.head.weight.grad.abs().sum() > 0
    assert reward.backbone.get_input_embeddings().weight.grad.abs().sum() > 0


def test_a_sequence_without_tokens_is_refused(reward):
    with pytest.raises(ValueError, match="without a single token"):
        reward(torch.tensor([[4, 5], [4, 5]]), torch.tensor([[True, True], [False, False]]))


def test_a_text_beyond_the_models_positions_is_an_error(llama_folder):
    set_config(llama_folder, max_position_embeddings=6)
    reward = load_reward(llama_folder, MODEL, from_policy=True)
    assert len(reward.score([[4] * 6], microbatch=1)) == 1
    with pytest.raises(ModelError, match="text of 7 tokens does not fit") as error:
        reward.score([[4], [4] * 7], microbatch=1)
    assert error.value.where == str(llama_folder)
    assert "max_length to 6" in error.value.mend


def test_a_new_head_depends_on_the_seed_alone_and_has_no_bias(policy_folder):
    torch.manual_seed(0)
    first = load_reward(policy_folder, MODEL, from_policy=True, seed=3).head
    torch.manual_seed(1)
    again = load_reward(policy_folder, MODEL, from_policy=True, seed=3).head
    other = load_reward(policy_folder, MODEL, from_policy=True, seed=4).head
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert first.bias is None
    assert first.weight.abs().max() <= 32**-0.5


def test_the_backbone_of_a_new_reward_model_is_the_policys(policy, llama_folder):
    reward = load_reward(llama_folder, MODEL, from_policy=True)
    expected = policy.model.base_model.state_dict()
    actual = reward.backbone.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_head_that_would_be_new_is_an_error(llama_folder):
    set_config(llama_folder, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    with pytest.raises(ModelError, match="would be random") as error:
        load_reward(llama_folder, MODEL)
    assert "score.weight" in error.value.found


def test_a_policy_given_as_reward_model_is_an_error(llama_folder):
    with pytest.raises(ModelError, match="one label, this model has 2") as error:
        load_reward(llama_folder, MODEL)
    assert "LlamaForCausalLM" in error.value.found


def test_two_labels_are_an_error(llama_folder, tmp_path):
    classifier = AutoModelForSequenceClassification.from_pretrained(llama_folder, num_labels=2)
    classifier.save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match="one label, this model has 2"):
        load_reward(tmp_path / "two", MODEL)


def test_a_classifier_that_reads_its_first_token_is_an_error(tmp_path):
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="last token") as error:
        load_reward(tmp_path / "bert", MODEL)
    assert error.value.found == "BertForSequenceClassification"


def test_the_export_check_notices_a_head_that_was_not_saved(llama_folder, sequences, tmp_path):
    reward = load_reward(llama_folder, MODEL, from_policy=True, seed=3)
    save_reward(reward, tmp_path / "reward")
    scores = reward.score(sequences, microbatch=4)
    assert score_difference(tmp_path / "reward", sequences, scores) <= 1e-5
    with torch.no_grad():
        reward.head.weight.mul_(1.01)
    assert score_difference(tmp_path / "reward", sequences, reward.score(sequences, microbatch=4)) > 1e-5
    changed = [scores[0] + 0.5, *scores[1:]]
    assert score_difference(tmp_path / "reward", sequences, changed) == pytest.approx(0.5, abs=1e-5)


def test_texts_are_scored_as_their_tokens_are(llama_folder):
    reward = load_reward(llama_folder, MODEL, from_policy=True, seed=3)
    template = PromptTemplate("plain", reward.tokenizer)
    scorer = ResponseScorer(reward, template, microbatch=2, max_length=12)
    prompts = [Prompt("a", "what is the capital of france ?"), Prompt("b", "name two colours ."), Prompt("c", "name")]
    responses = ["it is paris .", "red and blue , i think . red and blue , i think .", ""]
    ids = [template.encode_scored(p, r, 12) for p, r in zip(prompts, responses, strict=True)]
    scores = scorer.score_responses(prompts, responses)
    assert scores == pytest.approx(reward.score(ids, microbatch=1), abs=1e-5)
    output = scorer.embed_responses(prompts, responses)
    assert output.hidden_BD.shape == (3, 32)
    assert output.rewards_B.tolist() == pytest.approx(scores, abs=1e-6)
    assert len(set(scores)) == 3


def set_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
