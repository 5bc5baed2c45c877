"""Does the policy still prefer what people preferred? A check on pairs that no reward model was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.generation.logprobs import sequence_logprobs
from rlp_engine.methods.bradley_terry import pair_accuracy
from rlp_engine.models.inputs import position_limit
from rlp_engine.models.lora import adapters_off
from rlp_engine.models.policy import Policy
from rlp_engine.training.health import check_tensors


class HeldOutAgreement:
    """Share of pairs on which log pi/pi_ref is higher for the chosen answer; a tie counts one half.

    log pi/pi_ref is the reward that the policy stands for, up to a constant of the instruction (Rafailov et al.
    2023, arXiv:2305.18290, eq. 5): it is the policy's own accuracy on D. It starts at one half; when the reward
    rises and it falls, the policy has found something that the reward model likes and people do not.

    Args:
        reference: the frozen SFT policy; None = the policy with its adapters off.
        max_length: tokens of prompt and answer, cut on the right, and to the policy's positions. Pairs whose prompt
            fills it are left out.
        rows: sequences per forward pass, of the longest.
        temperature: of the log-probabilities.
    """

    def __init__(
        self,
        policy: Policy,
        reference: nn.Module | None,
        template: PromptTemplate,
        pairs: Sequence[PreferencePair],
        *,
        max_length: int,
        rows: int,
        temperature: float,
    ) -> None:
        self._policy, self._reference = policy, reference
        self._rows, self._temperature = rows, temperature
        max_length = min(max_length, position_limit(policy.model) or max_length)
        encoded = []
        for pair in pairs:
            sides = [_split(template, pair.prompt, text, max_length) for text in (pair.chosen, pair.rejected)]
            if all(prompt and response for prompt, response in sides):
                encoded.append(sides)
        self.count = len(encoded)
        own = world().share(self.count)
        self._sequences = [side for row in own for side in encoded[row]]  # chosen, rejected, chosen, ...
        self._reference_logprobs: list[float] | None = None

    @torch.no_grad()
    def measure(self) -> float:
        """The share now. Every rank has to ask, the policy's weights whole, and gets the same.

        Raises:
            HealthError: a log-probability is not finite, at every rank.
        """
        self._policy.model.eval()
        if self._reference_logprobs is None:  # it never changes
            self._reference_logprobs = self._of_reference()
        policy = self._logprobs(self._policy.model)
        own = [now - before for now, before in zip(policy, self._reference_logprobs, strict=True)]
        gathered = [ratio for part in world().gather(own) for ratio in part]
        ratios_N2 = torch.tensor(gathered, dtype=torch.float64).view(-1, 2)
        check_tensors(held_out_log_ratios=ratios_N2)
        return float(pair_accuracy(ratios_N2[:, 0], ratios_N2[:, 1]))

    def _of_reference(self) -> list[float]:
        if self._reference is not None:
            return self._logprobs(self._reference)
        with adapters_off(self._policy.model):
            return self._logprobs(self._policy.model)

    def _logprobs(self, model: nn.Module) -> list[float]:
        return sequence_logprobs(
            model,
            [prompt for prompt, _ in self._sequences],
            [response for _, response in self._sequences],
            pad_id=self._policy.tokenizer.pad_token_id,
            rows=self._rows,
            temperature=self._temperature,
        )


def _split(template: PromptTemplate, prompt: Prompt, text: str, max_length: int) -> tuple[list[int], list[int]]:
    """Tokens before the first one of the answer, and from there on, the EOS included."""
    ids, is_response = template.encode_example(prompt, text, max_length)
    start = is_response.index(True) if True in is_response else len(ids)
    return ids[:start], ids[start:]
