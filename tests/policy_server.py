"""A FakeServer that runs policies on disk: it answers as vLLM does, or as a server that knows nothing but text."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fake_server import FakeServer, Misbehave, Reply

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.generation.native import Request, Sampling, generate
from rlp_engine.models.policy import Policy, load_policy


class PolicyServer(FakeServer):
    """
    Args:
        policies: name -> folder of the policy that really answers to it.
        tells_tokens: as vLLM; else it takes and gives text.
        temperature: what it samples at, whatever it is asked for; None = as asked.
        logprob_error: nats that are added to every log-probability it tells.
    """

    def __init__(
        self,
        policies: Mapping[str, Path],
        *,
        tells_tokens: bool = True,
        temperature: float | None = None,
        logprob_error: float = 0.0,
        misbehave: Misbehave = lambda number, body: None,
    ) -> None:
        self._folders, self._tells_tokens = dict(policies), tells_tokens
        self._temperature, self._logprob_error = temperature, logprob_error
        self._loaded: dict[str, Policy] = {}
        self._busy = threading.Lock()
        rows = [{"id": name, "owned_by": "vllm" if tells_tokens else "me"} for name in self._folders]
        super().__init__(self._choice, misbehave, models=Reply(body={"object": "list", "data": rows}))

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._busy:
            return self._sampled(body)

    def _sampled(self, body: dict[str, Any]) -> dict[str, Any]:
        name, prompt = body["model"], body["prompt"]
        if name not in self._loaded:
            self._loaded[name] = load_policy(self._folders[name], ModelConfig())
        policy = self._loaded[name]
        ids = policy.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        sampling = Sampling(
            temperature=body["temperature"] if self._temperature is None else self._temperature,
            top_p=body["top_p"],
            max_new_tokens=body["max_tokens"],
            eos_ids=policy.eos_ids,
            pad_id=policy.tokenizer.pad_token_id,
        )
        done = generate(policy.model, [Request(ids, ("server", body["seed"]))], sampling, rows=1)[0]
        choice = {"text": policy.answer_text(done.token_ids), "finish_reason": done.finish_reason}
        choice["tokens_drawn"] = len(done.token_ids)
        if not self._tells_tokens:
            return choice
        logprobs = [logprob + self._logprob_error for logprob in done.logprobs]
        return choice | {"token_ids": done.token_ids, "logprobs": {"token_logprobs": logprobs}}
