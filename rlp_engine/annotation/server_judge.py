"""A judge made of annotators behind a server: it compares two answers and gives no scores.

Each instruction goes to one annotator of the pool, and the order in which it is shown the two outputs is a coin, both
drawn from the seed and the text of the instruction (METHOD 6.2, 7.33); or it is asked in both orders. Equal outputs
are a draw without a call. What was asked before, in this stage or another, is not asked again (`cache.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from rlp_engine import randomness
from rlp_engine.annotation.cache import Answer, AnswerCache, Key, key_of
from rlp_engine.annotation.parsers import read_preference
from rlp_engine.annotation.prompts import Prepared, Texts, filled, prepare
from rlp_engine.config.annotators import Annotator
from rlp_engine.config.sections.judging import ServerJudgeConfig
from rlp_engine.data.records import Prompt
from rlp_engine.evaluation.judges import Judge
from rlp_engine.evaluation.winrate import DRAW
from rlp_engine.run.reporting import NullReporter, Reporter
from rlp_engine.serving.messages import ServerAnswer, ServerRequest

TOP_LOGPROBS = 20  # likeliest tokens that are asked for: the most that servers give
MILLION = 1_000_000
SEED_BITS = 31  # of a request's seed: what every server takes


class Asks(Protocol):
    """What is needed of `serving.client.ServerClient`."""

    def stream(self, requests: Iterable[ServerRequest]) -> Iterator[ServerAnswer]: ...


class Comparison(NamedTuple):
    """An instruction and two outputs."""

    prompt: Prompt
    output_1: str
    output_2: str


class Call(NamedTuple):
    """A comparison in one order: output 2 is shown first when it is swapped."""

    row: int
    is_swapped: bool


class ServerJudge(Judge):
    """Annotators, the cache of their answers, and a client for what is not in it."""

    def __init__(
        self,
        annotators: Sequence[Annotator],
        config: ServerJudgeConfig,
        *,
        seed: int,
        client: Asks,
        cache: AnswerCache,
        reporter: Reporter | None = None,
        stage: str = "",
    ) -> None:
        """
        Args:
            annotators: the pool; those that name no model ask `config.server.model`.
            stage: whose progress is reported.
        """
        self.name = "; ".join(f"{one.name} by {one.model or config.server.model}" for one in annotators)
        self._annotators = list(annotators)
        self._config = config
        self._seed = seed
        self._client = client
        self._cache = cache
        self._reporter = reporter or NullReporter()
        self._stage = stage
        self._used: set[Key] = set()
        self._counts: Counter[str] = Counter()

    def compare(
        self,
        prompts: Sequence[Prompt],
        outputs_1: Sequence[str],
        outputs_2: Sequence[str],
        *,
        finish_reasons_1: Sequence[str] | None = None,
        finish_reasons_2: Sequence[str] | None = None,
    ) -> list[float | None]:
        """As `Judge.compare`. Annotators read text alone: finish reasons make no difference.

        With `order = "both"` the mean of the two orders, or None if one of them cannot be read: the other alone would
        bring the position bias back.

        Raises:
            ServerError, Interrupted: as `ServerClient.stream`; what was answered before is in the cache.
        """
        rows = [Comparison(*row) for row in zip(prompts, outputs_1, outputs_2, strict=True)]
        calls = [
            Call(index, is_swapped)
            for index, row in enumerate(rows)
            if row.output_1 != row.output_2
            for is_swapped in self._orders(row.prompt)
        ]
        of_rows: list[list[float | None]] = [[] for _ in rows]
        for call, preference in zip(calls, self._ask(rows, calls), strict=True):
            of_rows[call.row].append(preference)
        return [_mean(found) if found else DRAW for found in of_rows]

    def both_orders(self, comparisons: Sequence[tuple[Prompt, str, str]]) -> list[tuple[float | None, float | None]]:
        """Preferences in [1, 2], 2 = output 2 is better, with output 1 shown first and with output 2 shown first.

        For RLAIF, which averages them whatever `order` says (METHOD 3.5). Raises as `compare`.
        """
        rows = [Comparison(*row) for row in comparisons]
        calls = [Call(index, is_swapped) for index in range(len(rows)) for is_swapped in (False, True)]
        found = self._ask(rows, calls)
        return list(zip(found[::2], found[1::2], strict=True))

    def details(self, prompt: Prompt) -> dict[str, str]:
        """Which annotator of the pool it was."""
        return {"pool_member": self._annotator(prompt).name}

    def costs(self) -> dict[str, float | int]:
        """What judging took so far: comparisons, calls, and tokens of every answer used, paid now or before.

        `calls` were answered now; `cached` answers had been paid before. `cost` is that of all tokens, `cost_now` of
        the calls, in the currency of the configured prices; they are left out when no price is known.
        """
        counts = self._counts
        names = ("comparisons", "calls", "cached", "unparsed", "cut", "escaped", "prompt_tokens", "completion_tokens")
        found: dict[str, float | int] = {name: counts[name] for name in names}
        if counts["without_usage"]:
            found["without_usage"] = counts["without_usage"]
        prices = self._config.price_per_million_input, self._config.price_per_million_output
        if any(prices):
            for name, suffix in (("cost", ""), ("cost_now", "_now")):
                tokens = counts[f"prompt_tokens{suffix}"], counts[f"completion_tokens{suffix}"]
                found[name] = round((tokens[0] * prices[0] + tokens[1] * prices[1]) / MILLION, 6)
        return found

    def _orders(self, prompt: Prompt) -> tuple[bool, ...]:
        if self._config.order == "both":
            return (False, True)
        return (bool(randomness.digest("judge-order", self._seed, question_of(prompt))[0] & 1),)

    def _annotator(self, prompt: Prompt) -> Annotator:
        drawn = int.from_bytes(randomness.digest("judge-annotator", self._seed, question_of(prompt)), "little")
        return self._annotators[drawn % len(self._annotators)]

    def _ask(self, rows: Sequence[Comparison], calls: Sequence[Call]) -> list[float | None]:
        """The preference of each call, mapped back to the order of the comparison."""
        self._cache.refresh()
        prepared = [self._prepared(rows[call.row], call) for call in calls]
        keys = [key_of(self._description(rows[call.row], one)) for call, one in zip(calls, prepared, strict=True)]
        missing = list({key: place for place, key in enumerate(keys) if key not in self._cache}.items())
        requests = (self._request(rows[calls[place].row], prepared[place]) for _, place in missing)
        for done, answer in enumerate(self._client.stream(requests), 1):
            self._cache.add(missing[answer.index][0], _kept(answer))
            self._reporter.progress(self._stage, done, len(missing), "judgements")
        new = {key for key, _ in missing}
        found, unread = [], []
        for call, key in zip(calls, keys, strict=True):
            answer, annotator = self._cache.get(key), self._annotator(rows[call.row].prompt)
            self._count_use(key, answer, is_new=key in new)
            preference = read_preference(annotator, answer.text, answer.top)
            if preference is None:
                unread.append((call.row, annotator, answer))
            found.append(None if preference is None else 3 - preference if call.is_swapped else preference)
        self._counts["comparisons"] += len({call.row for call in calls})
        self._counts["cut"] += len({c.row for c, one in zip(calls, prepared, strict=True) if one.was_cut})
        self._counts["escaped"] += len({c.row for c, one in zip(calls, prepared, strict=True) if one.was_escaped})
        self._tell_unread(unread)
        return found

    def _tell_unread(self, unread: Sequence[tuple[int, Annotator, Answer]]) -> None:
        rows = {row for row, _, _ in unread}
        self._counts["unparsed"] += len(rows)
        if unread:
            _, annotator, answer = unread[0]
            self._reporter.warn(
                f"{self._stage}: {len(rows)} judgements cannot be read and are left out; "
                f"{annotator.name} answered such as {answer.text[:60]!r} ({answer.finish_reason})"
            )

    def _prepared(self, row: Comparison, call: Call) -> Prepared:
        first, second = (row.output_2, row.output_1) if call.is_swapped else (row.output_1, row.output_2)
        texts = Texts(question_of(row.prompt), first, second)
        return prepare(self._annotator(row.prompt), texts, self._config.max_characters)

    def _description(self, row: Comparison, prepared: Prepared) -> dict[str, Any]:
        """All that decides the answer. The parser is not in it: another one reads what was paid for."""
        request = self._request(row, prepared)
        return {"endpoint": request.endpoint, **request.body(self._config.server.model)}

    def _request(self, row: Comparison, prepared: Prepared) -> ServerRequest:
        annotator = self._annotator(row.prompt)
        turns = [filled(text, prepared.texts) for text in annotator.texts]
        roles = [message.role for message in annotator.messages] or ["user"]
        is_chat = annotator.endpoint == "chat"
        return ServerRequest(
            max_tokens=annotator.max_tokens,
            prompt=None if is_chat else turns[0],
            messages=[{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
            if is_chat
            else None,
            temperature=annotator.temperature,
            top_p=annotator.top_p,
            seed=randomness.torch_seed("judge", self._seed, annotator.name, *turns) % 2**SEED_BITS
            if annotator.temperature > 0
            else None,
            logprobs=TOP_LOGPROBS if annotator.parser == "logprobs" else None,
            model=annotator.model,
            extra=beyond(self._config.server.kind, annotator) | annotator.extra,
        )

    def _count_use(self, key: Key, answer: Answer, *, is_new: bool) -> None:
        """Of each answer once, however often it is used."""
        if key in self._used:
            return
        self._used.add(key)
        self._counts["calls" if is_new else "cached"] += 1
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            self._counts["without_usage"] += 1
            return
        for suffix in ("", "_now") if is_new else ("",):
            self._counts[f"prompt_tokens{suffix}"] += answer.prompt_tokens
            self._counts[f"completion_tokens{suffix}"] += answer.completion_tokens


def beyond(kind: str, annotator: Annotator) -> dict[str, Any]:
    """Fields without which a kind of server (judge.server.kind) would not sample as the annotator says."""
    if kind == "transformers":  # it takes the likeliest token at every temperature, unless told otherwise
        return {"generation_config": json.dumps({"do_sample": annotator.temperature > 0})}
    if kind == "tgi" and annotator.top_p == 1.0:  # it refuses 1; left out it means the same
        return {"top_p": None}
    return {}


def question_of(prompt: Prompt) -> str:
    """Instruction and input as one text (METHOD 6.3)."""
    return f"{prompt.instruction}\n\n{prompt.input}" if prompt.input else prompt.instruction


def _mean(preferences: Sequence[float | None]) -> float | None:
    known = [value for value in preferences if value is not None]
    return sum(known) / len(known) if len(known) == len(preferences) else None


def _kept(answer: ServerAnswer) -> Answer:
    choice = answer.choices[0]
    return Answer(
        text=choice.text,
        finish_reason=choice.finish_reason,
        prompt_tokens=answer.usage.prompt_tokens if answer.usage else None,
        completion_tokens=answer.usage.completion_tokens if answer.usage else None,
        top=dict(choice.top_logprobs[0]) if choice.top_logprobs else None,
        model=answer.model,
    )
