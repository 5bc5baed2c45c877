"""[generation] and [sample]: how models answer, by our own loop or behind servers."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rlp_engine.config.sections.base import SAFE, NonNegative, Positive, PositiveFloat, Section


class ServerConfig(Section):
    """OpenAI-compatible servers, and how patiently they are asked (rlp_engine/serving)."""

    base_urls: list[str] = Field([], description="addresses such as `http://127.0.0.1:8000/v1`; of those that serve the model the one with the fewest requests in flight is asked, and what a dead one had goes to the others", json_schema_extra=SAFE)
    model: str = Field("", description="what the servers call the model; empty = as the stage does, which is a policy's folder in sampling")
    kind: Literal["auto", "vllm", "sglang", "tgi", "transformers", "openai"] = Field("auto", description="what serves: decides whether prompts go as token ids, and which fields beyond OpenAI's are sent; `auto`: /v1/models tells, else `openai`", json_schema_extra=SAFE)
    api_key_env: str = Field("", description="NAME of the environment variable that holds the key (never the key itself); empty = no key", json_schema_extra=SAFE)
    max_in_flight: Positive = Field(32, description="requests of each process that one server works on at a time", json_schema_extra=SAFE)
    timeout_seconds: PositiveFloat = Field(600.0, description="seconds in which a request must be answered whole", json_schema_extra=SAFE)
    max_retries: NonNegative = Field(8, description="times a request is sent again after 429, 5xx, a timeout, a dropped connection or an answer that is not whole", json_schema_extra=SAFE)
    backoff_seconds: PositiveFloat = Field(1.0, description="pause before the first retry, doubled with each (half of it is random); a longer Retry-After of the server is obeyed", json_schema_extra=SAFE)
    max_backoff_seconds: PositiveFloat = Field(60.0, description="longest pause of our own before a retry", json_schema_extra=SAFE)

    @field_validator("base_urls")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        urls = [url.strip().rstrip("/") for url in urls]
        for url in urls:
            try:
                parts = urlsplit(url)
                whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:  # a port that is no number, a bracket that stays open
                whole = False
            if not whole:
                raise ValueError(f"'{url}' is no address: want http://HOST:PORT/v1")
            if parts.username is not None or parts.query or parts.fragment:
                raise ValueError(f"an address of {parts.hostname} holds more than host, port and path: name a key's variable in api_key_env instead")
        if len(set(urls)) < len(urls):
            raise ValueError("an address is named twice")
        return urls

    @field_validator("api_key_env")
    @classmethod
    def _name_of_a_variable(cls, name: str) -> str:
        if name and not re.fullmatch("[A-Z_][A-Z0-9_]*", name):  # and not shown: it may be the key itself
            raise ValueError("want the NAME of an environment variable (capitals, digits, _), not the key itself")
        return name


class GenerationConfig(Section):
    """Limits shared by collect, ppo, sample and evaluate."""

    max_prompt_tokens: Positive = Field(192, description="longer prompts are dropped from training and counted [AF]; `evaluate` keeps their last tokens")
    max_new_tokens: Positive = Field(300, description="tokens, the EOS included [AF]")
    rows: Positive = Field(64, description="sequences decoded side by side: more is faster until memory ends (on a CPU up to about 320), and the answers are the same", json_schema_extra=SAFE)
    engine: Literal["native", "server"] = Field("native", description="who answers in collect, sample and evaluate: our own loop, or servers that run the same policies; PPO's rollouts are native always")
    server: ServerConfig = ServerConfig()


class SampleConfig(Section):
    """n answers an instruction from the policy (METHOD 1, stage 4a)."""

    num_per_prompt: Positive = Field(10, ge=2, description="n [P]")
    temperature: PositiveFloat = Field(1.0, description="[P]")
    top_p: PositiveFloat = Field(1.0, le=1.0, description="[we, METHOD 7.3]")
    shard_prompts: Positive = Field(512, description="instructions per shard; a shard is committed when whole")
