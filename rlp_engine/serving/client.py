"""A client for OpenAI-compatible servers: many requests at a time, each answered once.

Built on httpx2, not on the `openai` package, for three reasons. Our requests must be countable: a retry is a second
payment, so it is ours to decide, to report and to spread over several servers, and `openai` retries inside a call
against one address. Servers send fields that OpenAI's types do not know (token ids) and leave out some that they
demand. And httpx2 is already here: huggingface-hub downloads with it.

Asynchronous inside, in a thread of its own, so that connections go on while the caller writes an answer down;
a plain iterator outside.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlp_engine.config.sections.generation import ServerConfig
from rlp_engine.errors import ConfigError, RlpError
from rlp_engine.run.reporting import NullReporter, Reporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.serving.connect import api_key
from rlp_engine.serving.failures import PassingFailure
from rlp_engine.serving.messages import ServerAnswer, ServerRequest
from rlp_engine.serving.pool import Backoff, Halted, Server
from rlp_engine.serving.work import Work

READ_AHEAD = 2  # requests taken from the caller's iterable, for each that may be in flight
POLL_SECONDS = 0.1  # between looks at the stop signal


@dataclass
class Counts:
    """What has been asked and paid for so far."""

    answers: int = 0
    retries: Counter[str] = field(default_factory=Counter)  # by kind of failure: "429", "timeout", ...
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0  # answers whose tokens the server did not count

    def add(self, answer: ServerAnswer) -> None:
        self.answers += 1
        if answer.usage is None:
            self.without_usage += 1
        else:
            self.prompt_tokens += answer.usage.prompt_tokens
            self.completion_tokens += answer.usage.completion_tokens

    def summary(self) -> dict[str, Any]:
        """For a stage's summary."""
        return {
            "requests_answered": self.answers,
            "requests_sent_again": dict(sorted(self.retries.items())),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


class ServerClient:
    """Asks the servers of one config. One stream at a time."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        model: str = "",
        names: Mapping[str, str] | None = None,
        stop: StopSignal | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """
        Args:
            model: the name in requests when `config.model` is empty.
            names: address -> what the model is called there, where addresses differ; only these are asked.
            stop: once it is requested no request is sent any more, and those in flight are waited for.

        Raises:
            ConfigError: no address, or the variable of `api_key_env` is not set.
        """
        if not config.base_urls:
            raise ConfigError("there is no server to ask", where="base_urls", mend='e.g. ["http://127.0.0.1:8000/v1"]')
        self.model = config.model or model
        self.counts = Counts()
        self._config = config
        self._stop = stop or StopSignal()
        self._reporter = reporter or NullReporter()
        self._key = api_key(config)
        names = names or dict.fromkeys(config.base_urls, self.model)
        self._servers = [Server(url, name) for url, name in names.items()]
        self._backoff = Backoff(config.backoff_seconds, config.max_backoff_seconds)

    @property
    def read_ahead(self) -> int:
        """Most requests that are taken from the caller's iterable and not yielded yet."""
        return READ_AHEAD * self._config.max_in_flight * len(self._servers)

    def ask(self, request: ServerRequest) -> ServerAnswer:
        """One request; as `stream`."""
        return next(iter(self.stream([request])))

    def stream(self, requests: Iterable[ServerRequest]) -> Iterator[ServerAnswer]:
        """The answers as they come, each with the place of its request in `requests`.

        Whatever ends the stream early, the answers that are in flight are waited for and yielded first: they are
        paid for. `requests` is read only a little ahead of the answers (`read_ahead`).

        Raises:
            ServerError: the server refused a request (4xx), or one failed `max_retries` times more after the first.
            Interrupted: a stop was asked for and some requests are left.
        """
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        source = enumerate(requests)
        outstanding, is_left, failure = 0, True, None
        skipped = 0
        with Work(self._config, self._servers, self._backoff, self._key, inbox.put) as work:
            while True:
                if failure or self._stop.requested:
                    work.halt()
                while is_left and outstanding < self.read_ahead and not (failure or self._stop.requested):
                    try:
                        index, request = next(source)
                    except StopIteration:
                        is_left = False
                    except RlpError as error:  # of whoever makes the requests; what is in flight still counts
                        failure = error
                    else:
                        work.submit(index, request)
                        outstanding += 1
                if not outstanding:
                    break
                try:
                    outcome = inbox.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(outcome, str):
                    self._reporter.warn(outcome)
                    continue
                if isinstance(outcome, PassingFailure):
                    self.counts.retries[outcome.kind] += 1
                    continue
                outstanding -= 1
                if isinstance(outcome, ServerAnswer):
                    self.counts.add(outcome)
                    yield outcome
                elif isinstance(outcome, Halted):
                    skipped += 1
                else:
                    failure = failure or outcome
        if failure:
            raise failure
        if is_left or skipped:
            self._stop.check("between requests to a server; what was answered is kept")
