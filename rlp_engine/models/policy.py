"""A policy: a causal language model and its tokenizer, ready for batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.errors import ModelError
from rlp_engine.models.export import save_module
from rlp_engine.models.loading import load_config, load_module, load_tokenizer
from rlp_engine.models.special_tokens import ensure_pad_token, eos_ids


@dataclass
class Policy:
    """`tokenizer.pad_token_id` is set, is not an EOS, and has a row in the model's embeddings."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a response, the tokenizer's own EOS first."""
        return eos_ids(self.tokenizer, self.model)

    def answer_text(self, token_ids: Sequence[int]) -> str:
        """What an answer says: its tokens without the EOS that ends it and other special tokens, stripped.

        The one text of an answer: reward models, judges and clustering read it, and files keep it.
        """
        ids = list(token_ids)
        if ids and ids[-1] in self.eos_ids:  # one that only the generation config names is not "special" to decode
            ids.pop()
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def load_policy(source: Path | str, model: ModelConfig, *, device: torch.device | str = "cpu") -> Policy:
    """An AutoModelForCausalLM from a folder or a hub id, in evaluation mode, dropout off.

    Raises:
        ModelError: if it cannot be loaded whole, or its tokenizer has no EOS.
    """
    config = load_config(source, model)
    tokenizer = load_tokenizer(source, model)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no EOS token, so no response could ever end",
            where=str(source),
            mend='name one in its tokenizer_config.json: "eos_token": "..."',
        )
    module = load_module(AutoModelForCausalLM, source, model, device=device, config=config)
    ensure_pad_token(tokenizer, module)
    return Policy(module, tokenizer)


def save_policy(policy: Policy, path: Path) -> None:
    """Write model (safetensors, adapters merged into a copy) and tokenizer, loadable by plain transformers.

    The live model is left as it is, so saving in the middle of training changes nothing.
    """
    save_module(policy.model, policy.tokenizer, path)


def same_token_ids(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether a token id means the same in both, so that one model's tokens can be fed to the other (METHOD 7.42)."""
    return a.get_vocab() == b.get_vocab() and a.pad_token_id == b.pad_token_id
