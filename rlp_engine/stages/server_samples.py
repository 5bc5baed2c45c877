"""A prompt as a server is asked it, and its answer as a sample's token ids.

What is exact and what is not is told in stages/server_answering.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlp_engine.data.records import Prompt
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.errors import DataError, ServerError
from rlp_engine.generation.native import Sampling
from rlp_engine.models.policy import Policy
from rlp_engine.randomness import KeyPart, torch_seed
from rlp_engine.serving.failures import readable
from rlp_engine.serving.kinds import Kind
from rlp_engine.serving.messages import Choice, ServerAnswer, ServerRequest

FINISHED = {"stop": "stop", "length": "length", "eos_token": "stop"}  # the last is TGI's
SEED_BITS = 31  # of a request's seed: what every server takes


@dataclass(frozen=True)
class Translator:
    """Between one policy's tokens and what one kind of server takes and gives."""

    policy: Policy
    template: PromptTemplate
    sampling: Sampling
    kind: Kind

    def prompt(self, prompt: Prompt, ids: list[int]) -> str | list[int]:
        """Token ids, or text of which a server's tokenizer makes them, its own BOS included.

        Raises:
            DataError: there is no such text, since the prompt holds the text of a control token, say.
        """
        if self.kind.takes_token_ids:
            return ids
        tokenizer = self.policy.tokenizer
        rendered = self.template.render(prompt)
        bos = tokenizer.bos_token or ""
        cut = tokenizer.decode(ids).removeprefix(bos)  # of a prompt that was longer than the limit
        for text in (rendered, rendered.removeprefix(bos), cut):
            if tokenizer(text, verbose=False)["input_ids"] == ids:
                return text
        raise DataError(
            "there is no text of which a server would make a prompt's tokens",
            where=f"prompt {prompt.prompt_id}: {prompt.instruction[:40]!r}",
            mend="use a server that takes token ids (vLLM, SGLang), or take the prompt out of the data",
        )

    def request(self, prompt: str | list[int], key: tuple[KeyPart, ...]) -> ServerRequest:
        """One answer, with a seed of its own."""
        sampling = self.sampling
        return ServerRequest(
            prompt=prompt,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=torch_seed(*key) >> (63 - SEED_BITS),
            logprobs=0 if self.kind.gives_token_ids else None,
            extra=self.kind.extra(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                eos_ids=sampling.eos_ids,
                pad_id=sampling.pad_id,
            ),
        )

    def row(self, answer: ServerAnswer, prompt: str | Sequence[int]) -> dict[str, Any]:
        """`token_ids`, `finish_reason` and `logprob` (None: the server does not tell it) of an answer.

        Raises:
            ServerError: it ended for another reason than EOS or our limit.
        """
        choice, most = answer.choices[0], self.sampling.max_new_tokens
        finish = FINISHED.get(choice.finish_reason, "")
        if not finish:
            raise _useless(answer, f"it ended with '{readable(choice.finish_reason)}'", "see the server's log")
        tokens = _tokens(answer)
        if tokens is not None and (tokens > most or (finish == "length" and tokens < most)):
            what = f"it has {tokens} tokens, and generation.max_new_tokens = {most}"
            raise _useless(answer, what, "serve the model with room for prompt and answer (vLLM: --max-model-len)")
        ids = self._encoded(choice.text, prompt) if choice.token_ids is None else list(choice.token_ids)
        end = next((place for place, token in enumerate(ids, 1) if token in self.sampling.eos_ids), None)
        if end is not None:  # what comes after the first EOS is not part of an answer
            return {"token_ids": ids[:end], "finish_reason": "stop", "logprob": self._logprob(choice, end)}
        if finish == "stop":  # the server took the EOS off, and its log-probability with it
            return {"token_ids": [*ids, self.sampling.eos_ids[0]], "finish_reason": "stop", "logprob": None}
        return {"token_ids": ids, "finish_reason": "length", "logprob": self._logprob(choice, len(ids))}

    def _encoded(self, text: str, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of an answer's text: by itself, or as it stands after its prompt."""
        if self.kind.decodes_alone or not isinstance(prompt, str):
            return self._plain_ids(text)
        before, whole = self._plain_ids(prompt), self._plain_ids(prompt + text)
        return whole[len(before) :] if whole[: len(before)] == before else self._plain_ids(text)

    def _plain_ids(self, text: str) -> list[int]:
        encoding = self.policy.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return encoding["input_ids"]

    def _logprob(self, choice: Choice, length: int) -> float | None:
        """Sum of the server's, where they are at our temperature: it tells those of temperature 1."""
        values = choice.token_logprobs
        if choice.token_ids is None or values is None or len(values) != len(choice.token_ids):
            return None
        return math.fsum(values[:length]) if self.sampling.temperature in (0.0, 1.0) else None


def _tokens(answer: ServerAnswer) -> int | None:
    """How many the answer has, as far as the server tells."""
    choice = answer.choices[0]
    if choice.token_ids is not None:
        return len(choice.token_ids)
    return answer.usage.completion_tokens if answer.usage else None


def _useless(answer: ServerAnswer, what: str, mend: str) -> ServerError:
    return ServerError(f"an answer of the server cannot be used: {what}", where=answer.server, mend=mend)
