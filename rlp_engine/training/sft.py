"""Supervised fine-tuning: token-mean negative log-likelihood of the response tokens (METHOD 4.4, 4.5).

The rows of a microbatch are padded on the right, and the padding has log-probability 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.config.sections.training import SftConfig
from rlp_engine.data.cuts import Cuts
from rlp_engine.data.records import Demonstration
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import DataError
from rlp_engine.generation.logprobs import has_plain_head, response_logprobs
from rlp_engine.models.inputs import require_positions
from rlp_engine.models.policy import Policy
from rlp_engine.models.response_rows import microbatches, pack
from rlp_engine.randomness import KeyPart
from rlp_engine.training.dealing import dealt, idle
from rlp_engine.training.deepspeed import new_updater
from rlp_engine.training.failed_batch import Batch, Row
from rlp_engine.training.optimizer import LossShare, ParameterGroup
from rlp_engine.training.order import minibatch_at, steps_of
from rlp_engine.training.steps import UpdaterTask


class SftTask(UpdaterTask):
    """Demonstrations -> policy. Every demonstration is seen `epochs` times; the last minibatch may be short.

    Args:
        seed_parts: start of every random key: (seed, round, stage name).

    Raises:
        DataError: no demonstration has a response token within max_length.
    """

    def __init__(
        self,
        policy: Policy,
        template: PromptTemplate,
        demonstrations: Sequence[Demonstration],
        config: SftConfig,
        *,
        seed_parts: tuple[KeyPart, ...],
        deepspeed: DeepSpeedConfig | None = None,
    ) -> None:
        self.policy = policy
        self.config = config
        self._key = (*seed_parts, "order")
        self.cuts = Cuts()
        examples = [self._encode(template, demonstration) for demonstration in demonstrations]
        self._prompts = [prompt for prompt, response in examples if response]
        self._responses = [response for _, response in examples if response]
        self._demonstrations = [one for one, (_, response) in zip(demonstrations, examples, strict=True) if response]
        self._batch = Batch()
        self.num_without_response = len(examples) - len(self._responses)
        if not self._responses:
            raise DataError(
                f"none of {len(demonstrations)} demonstrations has a response within {config.max_length} tokens",
                mend="raise sft.max_length, or check the demonstrations with `rlp data check`",
            )
        require_positions(
            policy.model,
            max(len(prompt) + len(response) for prompt, response in examples),
            what="the policy",
            mend="--set sft.max_length={limit}",
        )
        self.total_steps = steps_of(self.total_items, config.epochs, config.minibatch)
        has_plain_head(policy.model)
        group = ParameterGroup("policy", {"policy": policy.model})
        self.updater = new_updater([group], config.optimizer, self.total_steps, policy.model.device, deepspeed)

    def _encode(self, template: PromptTemplate, demonstration: Demonstration) -> tuple[list[int], list[int]]:
        """Tokens before the first response token, and from there on."""
        ids, is_response = template.encode_example(demonstration.prompt, demonstration.output)
        ids = self.cuts.keep(ids, self.config.max_length)
        is_response = is_response[: len(ids)]
        start = is_response.index(True) if True in is_response else len(ids)
        assert all(is_response[start:]), "response tokens come last and together"
        return ids[:start], ids[start:]

    def step(self, step: int) -> dict[str, float]:
        rows = minibatch_at(step, self.total_items, self.config.minibatch, self._key, epochs=self.config.epochs)
        self.policy.model.train()
        metrics = self.updater.update(self.loss_shares(rows), index=step - 1)
        return {**metrics, "epoch": min(self.config.epochs, step * self.config.minibatch / self.total_items)}

    @property
    def total_items(self) -> int:
        return len(self._responses)

    def loss_shares(self, rows: Sequence[int]) -> Iterator[LossShare]:
        """Callables that sum to the token-mean loss of these demonstrations, one a microbatch; this rank's."""
        num_tokens = sum(len(self._responses[row]) for row in rows)
        self._batch.begin(rows, self._described)
        groups = microbatches(rows, self._prompts, self._responses, self.config.microbatch)
        for members, counts in dealt(groups):
            share = partial(self._share, members, num_tokens)
            yield share if counts else idle(share)

    def _share(self, rows: Sequence[int], num_tokens: int) -> Tensor:
        packed = pack(
            [self._prompts[row] for row in rows],
            [self._responses[row] for row in rows],
            pad_id=self.policy.tokenizer.pad_token_id,
            device=self.policy.model.device,
        )
        logprobs_RT = response_logprobs(self.policy.model, packed)
        self._batch.note(rows, logprob=logprobs_RT.detach().sum(1))
        return -logprobs_RT.sum() / num_tokens

    def _described(self, row: int) -> Row:
        one = self._demonstrations[row]
        prompt = {"prompt_id": one.prompt.prompt_id, "instruction": one.prompt.instruction, "input": one.prompt.input}
        return prompt | {"response": one.output, "tokens": len(self._responses[row])}

    def failed_batch(self) -> list[Row]:
        return self._batch.read()
