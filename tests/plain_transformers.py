"""A saved reward model, read the way anyone would read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlp_engine.models.loading import quiet


def score_difference(path: Path, sequences: Sequence[Sequence[int]], scores: Sequence[float]) -> float:
    """Largest absolute difference between `scores` and those of the saved reward model in plain transformers.

    The folder is read the way anyone would read it: AutoModelForSequenceClassification and the
    tokenizer's own padding, all sequences in one batch.

    Args:
        sequences: token ids of the scored texts, as `PromptTemplate.encode_scored` makes them.
        scores: what the live model gave them.
    """
    with quiet():
        module = AutoModelForSequenceClassification.from_pretrained(path, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        batch = tokenizer.pad({"input_ids": [list(ids) for ids in sequences]}, return_tensors="pt")
    with torch.no_grad():
        logits_B1 = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return float((logits_B1[:, 0].double() - torch.tensor(scores, dtype=torch.float64)).abs().max())


def plain_rewards(folder: Path, texts: list[str]) -> torch.Tensor:
    """What plain transformers makes of the texts, one at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        ids = [tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"] for text in texts]
        return torch.cat([model(input_ids=one).logits[0] for one in ids])
