"""A reward model: a sequence classifier with one label, read at the last token. Shapes: B texts, L tokens, D hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.data.batching import length_groups, pad
from rlp_engine.data.cuts import Cuts
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import ModelError
from rlp_engine.models.export import save_module
from rlp_engine.models.inputs import last_live_index, model_inputs, position_limit, require_positions
from rlp_engine.models.loading import hidden_size, load_config, load_module, load_tokenizer
from rlp_engine.models.pairs import PairRows, can_pack, is_worth_packing, pack_pairs, pair_length, pair_states
from rlp_engine.models.special_tokens import ensure_pad_token

HEAD = "score"  # the attribute that decoder sequence classifiers of transformers keep their head in


class RewardOutput(NamedTuple):
    """rewards_B (float32, unbounded) and the hidden_BD (float32) that the head read: v of METHOD 2.1."""

    rewards_B: Tensor
    hidden_BD: Tensor


class RewardModel(nn.Module):
    """Wraps `model`, an AutoModelForSequenceClassification with one label, and the tokenizer it reads text with."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @property
    def backbone(self) -> PreTrainedModel:
        return self.model.base_model

    @property
    def head(self) -> nn.Linear:
        return getattr(self.model, HEAD)

    def forward(self, ids_BL: Tensor | PairRows, attention_BL: Tensor | None = None) -> RewardOutput:
        """Reward at the last live token of each row, whatever the padding side; or of pairs, two to a row.

        Equals the logits of plain transformers up to rounding (theirs are in the model's dtype, ours in
        float32): v is the last layer's state after the final norm.
        """
        if isinstance(ids_BL, PairRows):
            return self._output(pair_states(self.backbone, ids_BL))
        last_B = last_live_index(attention_BL)
        is_right_padded = bool((attention_BL.sum(dim=-1) == last_B + 1).all())
        inputs = model_inputs(self.backbone, ids_BL, None if is_right_padded else attention_BL)
        hidden_BLD = self.backbone(**inputs, use_cache=False).last_hidden_state
        return self._output(hidden_BLD[torch.arange(len(last_B), device=last_B.device), last_B])

    def forward_pairs(self, first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> RewardOutput:
        """Rewards (2P,) and hidden states (2P, D) of the first sequences, then of the second ones, in one pass.

        What the two sequences of a pair begin with is read once where that spares work (models/pairs.py). Either way
        it is one call of this module: under ZeRO-3 ranks go through the same modules, whatever their pairs are like.
        """
        device = next(self.model.parameters()).device
        pad_id = self.tokenizer.pad_token_id
        longest = max(pair_length(*pair) for pair in zip(first, second, strict=True))
        if is_worth_packing(first, second) and can_pack(self.backbone, longest):
            return self(pack_pairs(first, second, pad_id, self.backbone.dtype).to(device))
        ids_BL, attention_BL = pad([*first, *second], pad_id, "right")
        return self(ids_BL.to(device), attention_BL.to(device))

    def _output(self, states_BD: Tensor) -> RewardOutput:
        hidden_BD = states_BD.float()
        bias = None if self.head.bias is None else self.head.bias.float()
        return RewardOutput(F.linear(hidden_BD, self.head.weight.float(), bias).squeeze(-1), hidden_BD)

    def embed(self, sequences: Sequence[Sequence[int]], *, microbatch: int) -> RewardOutput:
        """Rewards (N,) and hidden states (N, D) of token id sequences, on the CPU, in their order; no gradient.

        Grouped by length inside; `microbatch` counts the longest (`data/batching.length_groups`).

        Raises:
            ModelError: if a sequence is longer than the model's positions.
        """
        lengths = [len(ids) for ids in sequences]
        self.require_positions(max(lengths, default=0))
        device = next(self.model.parameters()).device
        rewards_N = torch.empty(len(sequences))
        hidden_ND = torch.empty(len(sequences), hidden_size(self.model))
        was_training = self.training
        self.eval()
        with torch.no_grad():
            for rows in length_groups(lengths, microbatch):
                ids_BL, attention_BL = pad([sequences[i] for i in rows], self.tokenizer.pad_token_id, "right")
                output = self(ids_BL.to(device), attention_BL.to(device))
                rewards_N[rows] = output.rewards_B.cpu()
                hidden_ND[rows] = output.hidden_BD.cpu()
        self.train(was_training)
        return RewardOutput(rewards_N, hidden_ND)

    def require_positions(self, tokens: int) -> None:
        """Raises ModelError when a text of so many tokens is longer than the model's positions."""
        mend = "lower train_rm.max_length to {limit}"
        require_positions(self.model, tokens, what="the reward model", mend=mend)

    def score(self, sequences: Sequence[Sequence[int]], *, microbatch: int) -> list[float]:
        """Rewards of token id sequences, in their order."""
        return self.embed(sequences, microbatch=microbatch).rewards_B.tolist()


@dataclass(frozen=True)
class ResponseScorer:
    """A reward model that reads text: its own tokenizer, whatever tokenizer the policy has."""

    reward_model: RewardModel
    template: PromptTemplate  # made with reward_model.tokenizer
    microbatch: int  # texts per forward pass, of the longest
    max_length: int  # tokens of prompt and response, cut on the right
    cuts: Cuts = field(default_factory=Cuts)  # of the texts so far

    @property
    def limit(self) -> int:
        """Tokens of a text that are read: `max_length`, or the model's positions where it has fewer."""
        positions = position_limit(self.reward_model.model)
        return self.max_length if positions is None else min(self.max_length, positions)

    def limit_in_words(self, key: str) -> str:
        """What `limit` comes from: `key`, which sets `max_length`, or the model's positions."""
        return f"{key if self.limit == self.max_length else 'max_position_embeddings'} = {self.limit}"

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt with its response, tokenized jointly, no EOS added (METHOD 4.2, 4.3)."""
        pairs = zip(prompts, responses, strict=True)
        return [self.cuts.keep(self.template.encode_scored(prompt, text), self.limit) for prompt, text in pairs]

    def score_responses(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        """One reward a row; row i is the response i to prompt i."""
        return self.reward_model.score(self.encode(prompts, responses), microbatch=self.microbatch)

    def embed_responses(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> RewardOutput:
        """Rewards (N,) and hidden states (N, D)."""
        return self.reward_model.embed(self.encode(prompts, responses), microbatch=self.microbatch)


def load_reward(
    source: Path | str,
    model: ModelConfig,
    *,
    device: torch.device | str = "cpu",
    from_policy: bool = False,
    seed: int = 0,
) -> RewardModel:
    """A reward model from a folder or a hub id, in evaluation mode, dropout off.

    Args:
        from_policy: `source` is a causal language model: its backbone is kept and the head is new, drawn
            with `seed` from torch's default for a linear layer, U(-1/sqrt(D), 1/sqrt(D)) as [AF], no bias
            (METHOD 7.41). Otherwise every weight must be in the checkpoint.

    Raises:
        ModelError: if it cannot be loaded whole, does not have exactly one label, or has no head that
            reads the last token.
    """
    config = load_config(source, model, **({"num_labels": 1} if from_policy else {}))
    if config.num_labels != 1:
        raise ModelError(
            f"a reward model has one label, this model has {config.num_labels}",
            where=str(source),
            found=f"{', '.join(config.architectures or ['unknown architecture'])} with labels {config.id2label}",
            mend="name a sequence classifier with num_labels = 1",
        )
    new_weights = (f"{HEAD}.weight",) if from_policy else ()
    module = load_module(AutoModelForSequenceClassification, source, model, config=config, new_weights=new_weights)
    head = getattr(module, HEAD, None)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            "this architecture does not read its label at the last token",
            where=str(source),
            found=type(module).__name__,
            want=f"a decoder's sequence classifier with a linear head named `{HEAD}`",
            mend="name a reward model built on a causal language model",
        )
    if from_policy:
        bound = 1 / math.sqrt(head.in_features)
        draw = torch.rand(head.weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            head.weight.copy_((2 * draw - 1) * bound)
    tokenizer = load_tokenizer(source, model)
    ensure_pad_token(tokenizer, module)
    return RewardModel(module, tokenizer).to(device).eval()


def save_reward(reward_model: RewardModel, path: Path) -> None:
    """Write model (safetensors, adapters merged into a copy, the head always) and tokenizer.

    Plain AutoModelForSequenceClassification reads it and gives the same scores.
    """
    save_module(reward_model.model, reward_model.tokenizer, path)
