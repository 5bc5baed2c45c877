"""Equivalence by sentence embeddings: the cosine of mean-pooled hidden states reaches a threshold.

A cheap stand-in for NLI (not in the paper). The answers are embedded without the question: it would be in
both texts and make every pair look alike. Shapes: B texts, L tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.models.finite import require_finite
from rlp_engine.models.loading import load_module, load_tokenizer
from rlp_engine.semantics.equivalence import Comparison

MOST_CACHED = 50_000  # vectors; a block of prompts asks for the same texts round after round
UNUSED_WEIGHTS = ("pooler.dense.weight", "pooler.dense.bias")  # BERT's; mean pooling does not read them


class EmbeddingEquivalence:
    """Cosine of two answers' embeddings >= min_cosine. Symmetric, but not transitive."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        min_cosine: float = 0.8,
        microbatch: int = 32,
        max_length: int = 512,
    ) -> None:
        """
        Args:
            microbatch: texts per forward pass.
            max_length: tokens of a text; the rest is cut. The model's own limit holds too.
        """
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._min_cosine = min_cosine
        self._microbatch = microbatch
        self._max_length = min(
            max_length,
            tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", None) or max_length,
        )
        self._cache: dict[str, Tensor] = {}
        self._calls = 0
        self._truncated = 0

    def begin(self, block: str) -> None:
        self._cache.clear()

    def equivalent(self, comparisons: Sequence[Comparison]) -> list[bool]:
        vectors = self.embed([text.strip() for c in comparisons for text in (c.leader, c.answer)])
        cosines = (vectors[0::2] * vectors[1::2]).sum(dim=-1)
        return (cosines >= self._min_cosine).tolist()

    def counts(self) -> dict[str, int]:
        return {"embedding_calls": self._calls, "embedding_truncated": self._truncated}

    def recalled(self) -> int:
        return 0

    def embed(self, texts: Sequence[str]) -> Tensor:
        """(B, D) float32 on the CPU, each row of length 1."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._cache))
        if len(self._cache) + len(missing) > MOST_CACHED:
            self._cache.clear()
            missing = list(dict.fromkeys(texts))
        self._cache.update(zip(missing, self._forward(missing), strict=True))
        if not texts:
            return torch.zeros(0, self._model.config.hidden_size)
        return torch.stack([self._cache[text] for text in texts])

    @torch.inference_mode()
    def _forward(self, texts: Sequence[str]) -> list[Tensor]:
        encoded = [self._encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: (-len(encoded[i]["input_ids"]), i))
        vectors: list[Tensor] = [torch.empty(0)] * len(texts)
        for start in range(0, len(order), self._microbatch):
            rows = order[start : start + self._microbatch]
            batch = self._tokenizer.pad([encoded[i] for i in rows], return_tensors="pt").to(self._model.device)
            hidden_BLD = self._model(**batch).last_hidden_state.float()
            pooled_BD = mean_pool(hidden_BLD, batch["attention_mask"]).cpu()
            require_finite(
                pooled_BD.sum(dim=-1).tolist(),
                "a number in a text's embedding",
                model=f"embedding model {self._model.config.name_or_path}",
                place=lambda index, rows=rows: repr(texts[rows[index]][:60]),
            )
            for i, vector in zip(rows, pooled_BD, strict=True):
                vectors[i] = vector
        self._calls += len(texts)
        return vectors

    def _encode(self, text: str) -> dict[str, list[int]]:
        # A control token that an answer spells out is text like any other.
        encoded = self._tokenizer(text, split_special_tokens=True, verbose=False)
        if len(encoded["input_ids"]) > self._max_length:
            self._truncated += 1
            encoded = self._tokenizer(
                text, split_special_tokens=True, truncation=True, max_length=self._max_length, verbose=False
            )
        return dict(encoded)


def mean_pool(hidden_BLD: Tensor, attention_BL: Tensor) -> Tensor:
    """(B, D): mean over the tokens that count, scaled to length 1 (sentence-transformers' pooling)."""
    weight_BL1 = attention_BL.unsqueeze(-1).to(hidden_BLD.dtype)
    return F.normalize((hidden_BLD * weight_BL1).sum(dim=1), dim=-1)


def load_embedding(
    source: Path | str,
    *,
    device: torch.device,
    min_cosine: float = 0.8,
    microbatch: int = 32,
    max_length: int = 512,
    dtype: str = "float32",
    revision: str = "main",
) -> EmbeddingEquivalence:
    """Load a sentence encoder (AutoModel) from a folder or the hub; `dtype` and `revision` as in nli.py.

    Raises:
        ModelError: if it cannot be loaded.
    """
    settings = ModelConfig(path=str(source), revision=revision)
    tokenizer = load_tokenizer(source, settings)
    model = load_module(AutoModel, source, settings, device=device, new_weights=UNUSED_WEIGHTS, dtype=dtype)
    return EmbeddingEquivalence(model, tokenizer, min_cosine=min_cosine, microbatch=microbatch, max_length=max_length)
