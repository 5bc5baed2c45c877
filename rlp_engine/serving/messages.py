"""What goes to an OpenAI-compatible server and what comes back, as typed rows.

Source: OpenAI's API reference, /v1/completions and /v1/chat/completions, and vLLM's two ways to tell token ids
(`token_ids` of a choice, and `token_id:N` in place of a token's text).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOKEN_ID = "token_id:"


class Malformed(Exception):
    """An answer that is not whole, or not what was asked for; its text says what is wrong."""


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """One question: a `prompt` for /completions, or `messages` for /chat/completions."""

    max_tokens: int
    prompt: str | Sequence[int] | None = None  # text, or token ids where the server takes them
    messages: Sequence[Mapping[str, str]] | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1  # choices
    seed: int | None = None
    logprobs: int | None = None  # None: not asked for; k: of each token, and of the k likeliest in its place
    model: str = ""  # empty: the client's
    extra: Mapping[str, Any] = field(
        default_factory=dict
    )  # fields beyond OpenAI's, as this server knows them; None takes one out

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give a prompt or messages")

    @property
    def endpoint(self) -> str:
        """Path below the base URL."""
        return "/completions" if self.messages is None else "/chat/completions"

    def body(self, model: str) -> dict[str, Any]:
        """The JSON of the request; `model` where the request names none. What was not asked for is not named."""
        body: dict[str, Any] = {
            "model": self.model or model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.messages is None:
            body["prompt"] = self.prompt if isinstance(self.prompt, str) else list(self.prompt or ())
        else:
            body["messages"] = [dict(message) for message in self.messages]
        if self.n != 1:
            body["n"] = self.n
        if self.seed is not None:
            body["seed"] = self.seed
        if self.logprobs is not None:
            body |= (
                {"logprobs": self.logprobs}
                if self.messages is None
                else {"logprobs": True, "top_logprobs": self.logprobs}
            )
        return {key: value for key, value in (body | dict(self.extra)).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the server counts them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. What the server did not tell is None."""

    text: str
    finish_reason: str  # "stop", "length", ...: the server's word
    token_ids: tuple[int, ...] | None = None
    tokens: tuple[str, ...] | None = None  # their texts
    token_logprobs: tuple[float, ...] | None = None  # nats
    top_logprobs: tuple[Mapping[str, float], ...] | None = None  # likeliest tokens in each place


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """The answer to request number `index`, with exactly `n` choices in order."""

    index: int
    choices: tuple[Choice, ...]
    usage: Usage | None  # None: the server does not count
    model: str  # as the server calls it
    server: str  # its base URL
    attempts: int  # requests sent for it; above 1 when some failed

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text


def parse_answer(data: bytes, request: ServerRequest, *, index: int, server: str, attempts: int) -> ServerAnswer:
    """The answer in a response's body.

    Raises:
        Malformed: the body is no JSON, lacks something, or holds another number of choices than asked for.
    """
    try:
        body = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the answer is not JSON ({len(data)} bytes)") from error
    rows = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Malformed("the answer has no list of choices")
    places = [row.get("index", place) for place, row in enumerate(rows)]
    if not all(isinstance(place, int) for place in places) or sorted(places) != list(range(request.n)):
        raise Malformed(f"the answer has {len(rows)} choices, {request.n} were asked for")
    rows = sorted(enumerate(rows), key=lambda item: item[1].get("index", item[0]))
    read = _completion if request.messages is None else _chat
    return ServerAnswer(
        index=index,
        choices=tuple(read(row) for _, row in rows),
        usage=_usage(body.get("usage")),
        model=body["model"] if isinstance(body.get("model"), str) else "",
        server=server,
        attempts=attempts,
    )


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _completion(row: dict[str, Any]) -> Choice:
    text = _text(row.get("text"))
    ids = _list(row.get("token_ids"), int)
    logprobs = row.get("logprobs")
    if not isinstance(logprobs, dict):
        return Choice(text, _finish(row), ids)
    tokens = _list(logprobs.get("tokens"), str)
    if ids is None and tokens is not None and all(token.startswith(TOKEN_ID) for token in tokens):
        try:
            ids = tuple(int(token.removeprefix(TOKEN_ID)) for token in tokens)
        except ValueError as error:
            raise Malformed("a token's id is no number") from error
    values = _numbers(logprobs.get("token_logprobs"))
    top = _list(logprobs.get("top_logprobs"), dict)
    return Choice(text, _finish(row), ids, tokens, values, top)


def _chat(row: dict[str, Any]) -> Choice:
    message = row.get("message")
    if not isinstance(message, dict):
        raise Malformed("a choice has no message")
    content = message.get("content")
    text = "" if content is None else _text(content)  # None: the model said nothing but, say, its reasoning
    logprobs = row.get("logprobs")
    places = _list(logprobs.get("content"), dict) if isinstance(logprobs, dict) else None
    ids = _list(row.get("token_ids"), int)
    if places is None:
        return Choice(text, _finish(row), ids)
    top = tuple(_by_token(place.get("top_logprobs") or []) for place in places)
    values = _numbers([place.get("logprob") for place in places])
    return Choice(text, _finish(row), ids, tuple(_text(place.get("token")) for place in places), values, top)


def _by_token(rows: Sequence[Any]) -> dict[str, float]:
    try:
        return {row["token"]: float(row["logprob"]) for row in rows}
    except (TypeError, KeyError, ValueError) as error:
        raise Malformed("the log-probabilities of a choice cannot be read") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed("a choice has no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which no file of ours could keep
        raise Malformed("the text of a choice is not Unicode") from error
    return value


def _finish(row: dict[str, Any]) -> str:
    reason = row.get("finish_reason")
    if not isinstance(reason, str):
        raise Malformed("a choice does not say why it ended")
    return reason


def _list(value: Any, kind: type) -> tuple | None:
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(item, kind) for item in value):
        raise Malformed("a list of a choice holds what it should not")
    return tuple(value)


def _numbers(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
        raise Malformed("the log-probabilities of a choice cannot be read")
    numbers = tuple(float(item) for item in value)
    if not all(map(math.isfinite, numbers)):  # 1e999 is JSON
        raise Malformed("a log-probability of a choice is not finite")
    return numbers


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    counts = value.get("prompt_tokens"), value.get("completion_tokens")
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return Usage(*counts)
