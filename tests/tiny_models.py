"""Tiny models of random weights that tests hand to the engine as anyone's folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaConfig,
    DebertaForSequenceClassification,
    DebertaTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerFast,
)

from rlp_engine.config.sections.model import ModelConfig, ScratchConfig
from rlp_engine.models.policy import save_policy
from rlp_engine.models.scratch import build_scratch

NLI_TEXT = "what is the capital of france paris london it yes no cold hot a big town in not who why when"
NLI_LABELS = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]


def save_nli(folder: Path) -> Path:
    """A three-label classifier with a word tokenizer, large weights so that its labels vary."""
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *NLI_TEXT.split()])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.6,
        id2label=dict(enumerate(NLI_LABELS)),
        label2id={name: i for i, name in enumerate(NLI_LABELS)},
    )
    torch.manual_seed(66)  # a draw whose labels take all three values on the answers of semantics/test_nli.py
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_deberta(folder: Path) -> Path:
    """The architecture of the default NLI model, its files as published: no tokenizer.json, random weights."""
    tokenizer = deberta_tokenizer()
    config = DebertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_biased_input=False,
        type_vocab_size=0,
        initializer_range=0.6,
        id2label=dict(enumerate(NLI_LABELS)),
        label2id={name: i for i, name in enumerate(NLI_LABELS)},
    )
    torch.manual_seed(1)
    DebertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def deberta_tokenizer() -> DebertaTokenizer:
    """DeBERTa's first version: byte-level, here without a merge."""
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return DebertaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=512)


def deberta_v2_tokenizer() -> DebertaV2Tokenizer:
    """DeBERTa-v2 and v3: a unigram vocabulary, in which the control tokens are words like others."""
    control = [(name, 0.0) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")]
    letters = [(char, -5.0) for char in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789[]<|>/.?!"]
    return DebertaV2Tokenizer(vocab=[*control, *letters], unk_id=3, model_max_length=512)


def save_byte_model(folder: Path, texts: Iterable[str]) -> Path:
    """A causal language model whose tokenizer cuts words into byte pairs of `texts`."""
    scratch = ScratchConfig(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, tokenizer="bpe", vocab_size=300
    )
    save_policy(build_scratch(ModelConfig(init="scratch", scratch=scratch), texts, seed=1), folder)
    return folder


def save_word_policy(folder: Path, text: str, *, seed: int) -> Path:
    """A policy over the words of `text`, with answers of a few words; control tokens but the EOS are never likely."""
    scratch = ScratchConfig(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, tokenizer="word", init_std=0.4
    )
    policy = build_scratch(ModelConfig(init="scratch", scratch=scratch), [text], seed=seed)
    others = [token for token in policy.tokenizer.all_special_ids if token != policy.tokenizer.eos_token_id]
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[others] = 0.0  # a logit of 0: text does not hold these tokens
    save_policy(policy, folder)
    return folder
