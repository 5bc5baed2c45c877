"""One batch of PPO experience: sample answers, read them with every model, score their text (METHOD 5.1, steps 1 to 3).

Shapes: B = answers of the rollout batch, R = rows of a microbatch, T = response positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rlp_engine.config.sections.generation import GenerationConfig
from rlp_engine.config.sections.ppo import PpoConfig
from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.distributed.world import world
from rlp_engine.errors import DataError
from rlp_engine.generation.logprobs import response_logprobs
from rlp_engine.generation.native import Completion, Request, Sampling, generate
from rlp_engine.models.lora import adapters_off
from rlp_engine.models.policy import Policy
from rlp_engine.models.response_rows import Rows, live_mask, microbatches, pack
from rlp_engine.models.value import ValueModel
from rlp_engine.randomness import KeyPart
from rlp_engine.training.experience import Rollout
from rlp_engine.training.order import items_between

FORWARD_FACTOR = 4  # a forward pass without gradients keeps no activations: it takes this many microbatches at once


class Scorer(Protocol):
    """What PPO needs of a reward model; it tokenises the text itself."""

    def score_responses(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """One reward an answer, in order."""


class _Drawn(NamedTuple):
    """A prompt of a step."""

    prompt: Prompt
    prompt_ids: list[int]
    visit: int  # how often it came before


class Collector:
    """Makes the rollout of a step. The same step and the same weights give the same rollout.

    Args:
        reference: the frozen SFT policy; None = the policy with its adapters off (METHOD 7.43).
        seed_parts: (seed, round, stage name): an answer is drawn from (*seed_parts, visit, prompt id, draw).

    Raises:
        DataError: every prompt is longer than generation.max_prompt_tokens.
    """

    def __init__(
        self,
        policy: Policy,
        reference: nn.Module | None,
        value_model: ValueModel,
        scorer: Scorer,
        template: PromptTemplate,
        prompts: Sequence[Prompt],
        config: PpoConfig,
        generation: GenerationConfig,
        seed_parts: tuple[KeyPart, ...],
    ) -> None:
        self.policy, self.reference, self.value_model, self.scorer = policy, reference, value_model, scorer
        self.config, self.generation, self.seed_parts = config, generation, seed_parts
        encoded = [(prompt, template.encode_prompt(prompt)) for prompt in prompts]
        self._prompts = [(prompt, ids) for prompt, ids in encoded if len(ids) <= generation.max_prompt_tokens]
        self.num_dropped = len(encoded) - len(self._prompts)
        if not self._prompts:
            raise DataError(
                f"each of {len(encoded)} prompts is longer than {generation.max_prompt_tokens} tokens",
                mend="raise generation.max_prompt_tokens",
            )
        if reference is not None:
            reference.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.policy.model.device

    @property
    def pad_id(self) -> int:
        return self.policy.tokenizer.pad_token_id

    @torch.no_grad()
    def collect(self, step: int) -> Rollout:
        """The rollout of step `step`, counted from 1."""
        self.policy.model.eval()
        self.value_model.eval()
        drawn = self._drawn(step)
        own = world().share(len(drawn))  # this rank's rows: it samples and reads them, and gets what the others have
        completions = self._sample([drawn[row] for row in own])
        answers = [
            (ids, ended)
            for part in world().gather([(one.token_ids, one.finish_reason == "stop") for one in completions])
            for ids, ended in part
        ]
        response_ids = [ids for ids, _ in answers]
        texts = [self.policy.answer_text(ids) for ids in response_ids]
        width = max(1, *map(len, response_ids)) if self.config.mask_padding else self.generation.max_new_tokens
        live_BT = live_mask(response_ids, width).to(self.device)
        own_ids = [drawn[row].prompt_ids for row in own], [response_ids[row] for row in own]
        own_prompts, own_texts = [drawn[row].prompt for row in own], [texts[row] for row in own]
        reference_BT, values_BT = (
            self._of_all_ranks(self.read(*own_ids, width, one)) for one in (self.reference_logprobs, self.values)
        )
        if self.policy.model.dtype == torch.float32:
            own_logprobs = self._sampled_logprobs(completions, width)
        else:
            own_logprobs = self.read(*own_ids, width, self.policy_logprobs)
        scores = torch.tensor(self.scorer.score_responses(own_prompts, own_texts), dtype=torch.float32)
        return Rollout(
            prompts=[one.prompt for one in drawn],
            prompt_ids=[one.prompt_ids for one in drawn],
            response_ids=response_ids,
            texts=texts,
            ended_B=torch.tensor([ended for _, ended in answers]).to(self.device),
            scores_B=self._of_all_ranks(scores),
            is_live_BT=live_BT,
            logprobs_BT=self._of_all_ranks(own_logprobs).masked_fill(~live_BT, 0.0),
            reference_logprobs_BT=reference_BT.masked_fill(~live_BT, 0.0),
            values_BT=values_BT,
        )

    def _of_all_ranks(self, own: Tensor) -> Tensor:
        """(B, ...) from every rank's rows of it, by rank."""
        if world().size == 1:
            return own.to(self.device)
        parts = [part.view(-1, *own.shape[1:]) for part in world().gather_tensors(own.flatten())]
        return torch.cat(parts).to(self.device)

    def _drawn(self, step: int) -> list[_Drawn]:
        """The prompts of a step, in an order that the seed gives."""
        size = self.config.rollout_batch
        places = items_between((step - 1) * size, step * size, len(self._prompts), (*self.seed_parts, "order"))
        return [_Drawn(*self._prompts[item], visit) for item, visit in places]

    def _sample(self, drawn: Sequence[_Drawn]) -> list[Completion]:
        requests = [
            Request(prompt_ids=one.prompt_ids, key=(*self.seed_parts, one.visit, one.prompt.prompt_id, 0))
            for one in drawn
        ]
        sampling = Sampling(
            temperature=self.config.temperature,
            top_p=1.0,
            max_new_tokens=self.generation.max_new_tokens,
            eos_ids=self.policy.eos_ids,
            pad_id=self.pad_id,
        )
        return generate(self.policy.model, requests, sampling, rows=self.generation.rows)

    def _sampled_logprobs(self, completions: Sequence[Completion], width: int) -> Tensor:
        """(B, T) as the sampler saw them, which spares a forward pass.

        In float32 they are those of a forward pass to the last bits. In bfloat16 other kernels and batches move
        them so far that the first ratio would not be 1 (METHOD 5.2).
        """
        rows = [[*one.logprobs, *[0.0] * (width - len(one.logprobs))] for one in completions]
        return torch.tensor(rows, dtype=torch.float32).view(len(rows), width)

    def read(
        self,
        prompt_ids: Sequence[list[int]],
        response_ids: Sequence[list[int]],
        width: int,
        one: Callable[[Rows], Tensor],
    ) -> Tensor:
        """(B, T) of what `one` makes of microbatches, computed over rows of like length, in the given order."""
        result_BT = torch.zeros((len(prompt_ids), width), dtype=torch.float32, device=self.device)
        size = FORWARD_FACTOR * self.config.microbatch
        for members in microbatches(range(len(prompt_ids)), prompt_ids, response_ids, size):
            values_RT = one(self.pack([prompt_ids[row] for row in members], [response_ids[row] for row in members]))
            result_BT[members, : values_RT.shape[1]] = values_RT
        return result_BT

    def pack(self, prompt_ids: Sequence[list[int]], response_ids: Sequence[list[int]]) -> Rows:
        """Rows for a forward pass; with padded losses every row has room for all T positions."""
        width = None if self.config.mask_padding else self.generation.max_new_tokens
        return pack(prompt_ids, response_ids, pad_id=self.pad_id, device=self.device, response_width=width)

    def policy_logprobs(self, rows: Rows) -> Tensor:
        """(R, T) log-probabilities of the response tokens under the policy, at the sampling temperature."""
        return response_logprobs(self.policy.model, rows, temperature=self.config.temperature)

    def reference_logprobs(self, rows: Rows) -> Tensor:
        """(R, T) of the reference."""
        if self.reference is not None:
            return response_logprobs(self.reference, rows, temperature=self.config.temperature)
        with adapters_off(self.policy.model):
            return self.policy_logprobs(rows)

    def values(self, rows: Rows) -> Tensor:
        """(R, T) values of the states before each response token."""
        return self.value_model(rows.ids_RL, rows.attention_RL).gather(1, rows.before_RT)
