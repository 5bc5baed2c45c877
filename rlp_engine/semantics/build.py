"""The equivalence that a config asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rlp_engine.config.sections.synthesis import EquivalenceConfig
from rlp_engine.errors import ConfigError
from rlp_engine.semantics.answers import AnswerFolder
from rlp_engine.semantics.equivalence import Equivalence, ExactMatch, KnownMeaning, SameMeaning


def build_equivalence(
    config: EquivalenceConfig,
    *,
    device: torch.device,
    same_meaning: SameMeaning | None = None,
    answers: AnswerFolder | None = None,
    after_forward: Callable[[], None] = lambda: None,
) -> Equivalence:
    """
    Args:
        same_meaning: the sandbox's (prompt, text, text) -> bool; wanted by kind "sandbox" only.
        answers: where an NLI model's answers are kept; None = in memory.
        after_forward: called after each forward pass of an NLI model, whose answers are kept by then.

    Raises:
        ConfigError: for kind "sandbox" without a sandbox.
        ModelError: if a model cannot be used (see nli.py, embedding.py).
    """
    if config.kind == "exact-match":
        return ExactMatch()
    if config.kind == "sandbox":
        if same_meaning is None:
            raise ConfigError(
                "only the sandbox knows what its answers mean",
                where="synthesize.equivalence.kind = 'sandbox', but data.source is not 'sandbox'",
                mend="--set synthesize.equivalence.kind=nli",
            )
        return KnownMeaning(same_meaning)
    # transformers is loaded only by the two kinds that need it
    if config.kind == "embedding":
        from rlp_engine.semantics.embedding import load_embedding

        return load_embedding(
            config.model,
            device=device,
            min_cosine=config.min_cosine,
            microbatch=config.microbatch,
            max_length=config.max_length,
            dtype=config.dtype,
            revision=config.revision,
        )
    from rlp_engine.semantics.nli import load_entailment

    return load_entailment(
        config.model,
        device=device,
        rule=config.rule,
        microbatch=config.microbatch,
        question_tokens=config.question_tokens,
        max_length=config.max_length,
        dtype=config.dtype,
        revision=config.revision,
        answers=answers,
        after_forward=after_forward,
    )
