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

# Those whose attention layers do not say `is_causal` themselves.
ENCODERS = frozenset({"big_bird", "megatron-bert", "rembert", "roformer"})


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
        ModelError: if it cannot be loaded whole, is an encoder, or its tokenizer has no EOS.
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
    _require_causal(module, str(source))
    ensure_pad_token(tokenizer, module)
    return Policy(module, tokenizer)


def _require_causal(module: PreTrainedModel, place: str) -> None:
    """transformers gives encoders such as BERT a language model head too: each token then sees those after it, and
    training only learns to copy them."""
    seen = {part.is_causal for part in module.modules() if isinstance(getattr(part, "is_causal", None), bool)}
    is_of_encoders = seen == {False} or module.config.model_type in ENCODERS
    if is_of_encoders and getattr(module.config, "is_decoder", None) is False:
        raise ModelError(
            "a policy predicts each token from those before it, and this model is an encoder",
            where=place,
            found=f"{type(module).__name__} with is_decoder = false",
            mend="name a causal language model, such as a Llama",
        )


def save_policy(policy: Policy, path: Path) -> None:
    """Write model (safetensors, adapters merged into a copy) and tokenizer, loadable by plain transformers.

    The live model is left as it is, so saving in the middle of training changes nothing.
    """
    save_module(policy.model, policy.tokenizer, path)


def same_token_ids(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether a token id means the same in both, so that one model's tokens can be fed to the other (METHOD 7.42)."""
    return a.get_vocab() == b.get_vocab() and a.pad_token_id == b.pad_token_id
