"""A reward model, of a run or from elsewhere, on a file of labelled pairs (`rlp score-pairs`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlp_engine.config.sections.model import ComputeConfig, ModelConfig
from rlp_engine.data.records import PreferencePair
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.evaluation.pair_report import report, scored
from rlp_engine.models.device import apply_threads, device_of
from rlp_engine.models.reward import ResponseScorer, load_reward

CHUNK_PAIRS = 128  # scored between two reports of progress


def score_pairs(
    source: Path | str,
    pairs: Sequence[PreferencePair],
    *,
    model: ModelConfig,
    compute: ComputeConfig,
    microbatch: int,
    max_length: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Score both answers of every pair and say what comes of it (`evaluation/pair_report.report`).

    Args:
        source: folder or hub id of a sequence classifier with one label.
        max_length: tokens of prompt and answer, cut on the right, as at the model's positions where it has fewer; `cut`
            counts the answers that are longer.
        progress: is told (pairs done, pairs in all).

    Raises:
        ModelError: the model cannot be used.
        DataError: a reward is not finite, or there is no pair.
    """
    apply_threads(compute)
    device = device_of(compute)
    reward_model = load_reward(source, model, device=device)
    template = PromptTemplate(model.template, reward_model.tokenizer)
    scorer = ResponseScorer(reward_model, template, microbatch=microbatch, max_length=max_length)
    rows = []
    for start in range(0, len(pairs), CHUNK_PAIRS):
        chunk = pairs[start : start + CHUNK_PAIRS]
        prompts = [pair.prompt for pair in chunk]
        sequences = scorer.encode([*prompts, *prompts], [*(p.chosen for p in chunk), *(p.rejected for p in chunk)])
        rewards = reward_model.score(sequences, microbatch=microbatch)
        chosen, rejected = rewards[: len(chunk)], rewards[len(chunk) :]
        rows += [scored(*row) for row in zip(chunk, chosen, rejected, strict=True)]
        progress(len(rows), len(pairs))
    return {**report(rows), "cut": scorer.cuts.cut, "limit": scorer.limit_in_words("--max-length")}
