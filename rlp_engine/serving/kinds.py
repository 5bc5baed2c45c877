"""What the servers that speak OpenAI's protocol want beyond it, so that they draw from the policy as it is.

    kind          prompt     token ids back   what it would do if not told otherwise
    vllm          token ids  yes              take top_k, min_p and penalties from the model's generation_config.json
    sglang        token ids  no               the same
    tgi           text       no               refuse top_p = 1 (leaving it out means the same)
    transformers  text       no               take the likeliest token at every temperature, unless do_sample is set
    openai        text       no               (nothing is known; nothing beyond OpenAI's fields is sent)

`transformers` was tried with 5.23. The others follow their documentation and were not run by us; the check of the
answers (rlp_engine/generation/conformity.py) is there for what a server does all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """How a kind of server is asked for a sample."""

    name: str
    takes_token_ids: bool  # as the prompt
    gives_token_ids: bool  # of the answer, with their log-probabilities
    # An answer's text is its tokens decoded by themselves, so that a leading space may be lost; else it is what
    # follows the prompt's text.
    decodes_alone: bool

    def extra(self, *, temperature: float, top_p: float, eos_ids: Sequence[int], pad_id: int) -> Mapping[str, Any]:
        """Fields beside OpenAI's; None takes one of OpenAI's out."""
        plain = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": list(eos_ids)}
        if self.name == "vllm":
            return plain | {"return_token_ids": True, "return_tokens_as_token_ids": True}
        if self.name == "sglang":
            return plain
        if self.name == "tgi":
            return {"top_p": None} if top_p == 1.0 else {}
        if self.name == "transformers":
            how: dict[str, Any] = {"eos_token_id": list(eos_ids), "pad_token_id": pad_id}
            how |= {"do_sample": True, "top_k": 0} if temperature > 0 else {"do_sample": False}
            return {"generation_config": json.dumps(how)}
        return {}


KINDS = {
    kind.name: kind
    for kind in (
        Kind("vllm", takes_token_ids=True, gives_token_ids=True, decodes_alone=False),
        Kind("sglang", takes_token_ids=True, gives_token_ids=False, decodes_alone=False),
        Kind("tgi", takes_token_ids=False, gives_token_ids=False, decodes_alone=False),
        Kind("transformers", takes_token_ids=False, gives_token_ids=False, decodes_alone=True),
        Kind("openai", takes_token_ids=False, gives_token_ids=False, decodes_alone=False),
    )
}
