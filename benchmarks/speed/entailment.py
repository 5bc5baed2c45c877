"""The clustering benchmark's texts, encoders and entailment relation.

The encoders have random weights: a real forward pass is paid for, and its logits are then set by a known
relation, so that both sides must find the same clusters. Shapes: B pairs, L tokens, C = 3 labels.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

REAL_TEXTS = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "outputs" / "alpacaeval_llama3_8b_family10.jsonl.gz"
)
LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT, NEUTRAL = 0, 1
MEANINGS = 14  # kinds of answer to an instruction, the k-th with weight 1 / k
DUPLICATES = 0.08  # share of outputs that repeat an earlier one of their instruction to the letter
ONE_WAY = 0.1  # share of the pairs of meanings of which the rarer entails the commoner one, and not the reverse
SIGMA, LONGEST, QUESTION_TOKENS = 0.5, 200, 30  # of the outputs' log-normal lengths; longest texts, in tokens
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def draw_texts(
    work: dict[str, Any], texts: list[tuple[str, list[str]]], tokenizer: PreTrainedTokenizerFast, seed: int = 0
) -> list[dict[str, Any]]:
    """Instructions with outputs cut to log-normal lengths, each output with a meaning.

    Returns:
        {"instruction", "outputs": [text], "meanings": [int], "one_way": [[a, b]]: meaning a entails b} each.
    """
    rng = np.random.default_rng(seed)
    size = work["outputs"]
    weights = 1 / np.arange(1, MEANINGS + 1)
    drawn = []
    for instruction, outputs in texts:
        lengths = rng.lognormal(np.log(work["mean_tokens"]) - SIGMA**2 / 2, SIGMA, size).clip(5, LONGEST)
        cut = [_tokens(text, int(length), tokenizer) for text, length in zip(outputs, lengths, strict=True)]
        meanings = rng.choice(MEANINGS, size, p=weights / weights.sum()).tolist()
        for item in range(1, size):
            if rng.random() < DUPLICATES:
                twin = int(rng.integers(item))
                cut[item], meanings[item] = cut[twin], meanings[twin]
        one_way = [[b, a] for a in range(MEANINGS) for b in range(a + 1, MEANINGS) if rng.random() < ONE_WAY]
        drawn.append(
            {
                "instruction": _tokens(instruction, QUESTION_TOKENS, tokenizer),
                "outputs": cut,
                "meanings": meanings,
                "one_way": one_way,
            }
        )
    return drawn


def real_texts(count: int, size: int, path: Path = REAL_TEXTS) -> list[tuple[str, list[str]]] | None:
    """`count` AlpacaEval instructions with `size` models' outputs, where the shared data lies beside the repository."""
    if not path.exists():
        return None
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    long = [row for row in rows if len(row["outputs"]) >= size and min(map(len, row["outputs"])) > 800]
    return [(row["instruction"], row["outputs"][:size]) for row in long[:count]]


def made_up_texts(count: int, size: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """The same of random words."""
    rng = np.random.default_rng(seed)
    words = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "en", "ir", "ost", "ul", "ei")]
    texts = [[" ".join(rng.choice(words, LONGEST)) for _ in range(size + 1)] for _ in range(count)]
    return [(instruction, outputs) for instruction, *outputs in texts]


def _tokens(text: str, count: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """Its first `count` tokens, white space made plain."""
    text = " ".join(text.split())
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text[: offsets[min(count, len(offsets)) - 1][1]]


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Word pieces trained on the texts themselves."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=8000, special_tokens=SPECIAL))
    ids = {name: backend.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    backend.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )


class Relation:
    """Which text entails which, looked up by their tokens.

    A text entails one of the same instruction with its own meaning, or with one that its meaning entails;
    all other pairs are neutral.
    """

    def __init__(self, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast) -> None:
        self._separator = tokenizer.sep_token_id
        self._texts: dict[tuple[int, ...], tuple[int, int]] = {}
        self._one_way = {(i, a, b) for i, row in enumerate(rows) for a, b in row["one_way"]}
        for i, row in enumerate(rows):
            for output, meaning in zip(row["outputs"], row["meanings"], strict=True):
                text = f"{row['instruction']} {output}"  # as rlp_engine.semantics.nli_input shows it
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                self._texts.setdefault(tuple(ids), (i, meaning))

    def logits(self, ids_BL: Tensor) -> Tensor:
        """(B, C), float32: 1 at the label, 0 elsewhere.

        Raises:
            KeyError: a text was cut or changed on its way to the model.
        """
        rows = [self._label(row) for row in ids_BL.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(rows), len(LABELS)).float().to(ids_BL.device)

    def _label(self, ids: list[int]) -> int:
        middle = ids.index(self._separator)
        end = ids.index(self._separator, middle + 1)
        premise, hypothesis = self._texts[tuple(ids[1:middle])], self._texts[tuple(ids[middle + 1 : end])]
        entails = premise == hypothesis or (
            premise[0] == hypothesis[0] and (premise[0], premise[1], hypothesis[1]) in self._one_way
        )
        return ENTAILMENT if entails else NEUTRAL


class _Known:
    """Runs the model it is mixed into, then answers by the relation. Counts the pairs it was given."""

    relation: Relation
    pairs = 0

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
        output = super().forward(input_ids=input_ids, **inputs)
        self.pairs += len(input_ids)
        output.logits = self.relation.logits(input_ids)
        return output


class KnownBert(_Known, BertForSequenceClassification):
    """MiniLM's shape: 384 wide, 6 layers, 12 heads."""


class KnownDeberta(_Known, DebertaV2ForSequenceClassification):
    """DeBERTa-v2's attention at the same width and depth."""


def build_encoder(kind: str, relation: Relation, vocab_size: int, seed: int = 0) -> PreTrainedModel:
    """An NLI model of random weights that answers by the relation."""
    common = {
        "vocab_size": vocab_size,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: i for i, name in enumerate(LABELS)},
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    if kind == "bert":
        model: PreTrainedModel = KnownBert(BertConfig(**common, num_attention_heads=12))
    else:
        model = KnownDeberta(
            DebertaV2Config(
                **common,
                num_attention_heads=6,
                relative_attention=True,
                position_buckets=256,
                pos_att_type=["p2c", "c2p"],
                share_att_key=True,
                norm_rel_ebd="layer_norm",
                position_biased_input=False,
                type_vocab_size=0,
            )
        )
    model.relation = relation
    return model.eval()
