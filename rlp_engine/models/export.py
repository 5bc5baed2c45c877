"""Saved models: adapters merged, tokenizer beside them, and a check that plain transformers scores alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlp_engine.models.loading import quiet
from rlp_engine.models.lora import merged_state
from rlp_engine.run import faults
from rlp_engine.run.disk import Writing


def save_module(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """save_pretrained of the merged weights and of the tokenizer; the live module keeps its adapters.

    The config names the pad token (`special_tokens.ensure_pad_token`), by which plain sequence classifiers find
    the last token. Weights keep their live dtype. Files: config.json, *.safetensors, tokenizer files.
    """
    # save_pretrained empties the dict it is given; merged_state makes a new one each time.
    state = merged_state(module)
    with quiet(), Writing(path, sum(tensor.nbytes for tensor in state.values())):
        module.save_pretrained(path, state_dict=state)
        tokenizer.save_pretrained(path)
        for file in sorted(path.iterdir()):
            faults.wrote(file)


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


def scores_match(path: Path, sequences: Sequence[Sequence[int]], scores: Sequence[float], *, atol: float) -> bool:
    """Whether the saved reward model scores as the live one did, in plain transformers, within `atol`."""
    return score_difference(path, sequences, scores) <= atol
