"""The equivalence that a config asks for."""

from __future__ import annotations

import torch

from rlp_engine.config.schema import EquivalenceConfig
from rlp_engine.errors import ConfigError
from rlp_engine.semantics.equivalence import Equivalence, ExactMatch, KnownMeaning, SameMeaning


def build_equivalence(
    config: EquivalenceConfig, *, device: torch.device, same_meaning: SameMeaning | None = None
) -> Equivalence:
    """
    Args:
        same_meaning: the sandbox's (prompt, text, text) -> bool; wanted by kind "sandbox" only.

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
        )
    from rlp_engine.semantics.nli import load_entailment

    return load_entailment(
        config.model,
        device=device,
        rule=config.rule,
        microbatch=config.microbatch,
        question_tokens=config.question_tokens,
        max_length=config.max_length,
    )
