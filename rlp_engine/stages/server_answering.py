"""Answers of a policy that a server runs ([generation] engine = "server"), with nothing paid for twice.

One request an answer: each has a seed of its own, and a stage that was killed asks for those that are missing and
no others (the prompt's cache makes that cheap on vLLM and SGLang). An answer is in pending_NNNNN.jsonl as soon as it
comes; when a shard is whole it is written as shard_NNNNN.jsonl in one rename, as the native engine's are, and the
pending file goes.

What a sample holds is as exact as the server allows:

- `token_ids` are the server's where it gives them (vLLM). Else they are the answer's text, encoded again: what was
  drawn as other tokens than the tokenizer would write it with comes back as the usual ones, and a leading space may
  be lost. `text` is always the decoding of `token_ids`.
- `logprob` is the server's where it belongs to these tokens and to our temperature (servers tell those of
  temperature 1); else the local model computes it, when all answers of a shard are there.
- `finish_reason` is the server's, but an answer whose last possible token is the EOS has "stop" where that token is
  seen, and "length" where the server tells no tokens.

Some answers of every shard are read by the local model, which must find that they could be its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlp_engine.config.sections.generation import ServerConfig
from rlp_engine.data.records import Prompt, Sample
from rlp_engine.data.rows import write_jsonl
from rlp_engine.errors import ServerError
from rlp_engine.generation.conformity import Evidence, evidence
from rlp_engine.generation.logprobs import sequence_logprobs
from rlp_engine.run.journal import Journal
from rlp_engine.serving.client import ServerClient
from rlp_engine.serving.discovery import Serving, find_servers
from rlp_engine.stages.answering import Answerer
from rlp_engine.stages.server_samples import Translator
from rlp_engine.stages.spec import StageContext

CHECKED = 64  # answers of a shard that the local model reads, in each launch
# Of an answer's log-probability, nats divided by the root of its tokens, mean over those answers. Rounding adds up like
# that: bfloat16 made 0.01 of it in a random model. A policy that is 5 nats off (PPO's from SFT's, say) makes 0.3 of it
# in 300 tokens.
MAX_LOGPROB_ERROR = 0.1

Row = Mapping[str, Any]  # of a pending file: prompt_id, draw, token_ids, finish_reason, logprob
EncodedPrompts = Mapping[str, list[int]]  # by prompt id


class Connection:
    """To the servers of one policy. Found when the first answer is missing: finished shards need no server."""

    def __init__(self, context: StageContext, config: ServerConfig, name: str) -> None:
        """`name`: the policy's folder or hub id, which the servers are asked for."""
        self.name, self.addresses = name, ", ".join(config.base_urls)
        self.checked = Evidence()  # of the answers of this launch
        self._context, self._config = context, config

    @cached_property
    def serving(self) -> Serving:
        serving = find_servers(self._config, self.name, stop=self._context.stop)
        self._context.reporter.line(
            f"answers of {self.name} come from {', '.join(serving.names)} ({serving.kind.name})"
        )
        return serving

    @cached_property
    def client(self) -> ServerClient:
        context = self._context
        return ServerClient(self._config, names=self.serving.names, stop=context.stop, reporter=context.reporter)


@dataclass(frozen=True)
class ServerAnswerer(Answerer):
    """An Answerer whose answers come from servers. `policy` is the same model here: it encodes, checks and scores."""

    connection: Connection

    def write_shard(self, context: StageContext, path: Path, prompts: Sequence[Prompt], draws: int) -> None:
        """Ask for the answers that are not in the pending file, and write the shard.

        Raises:
            ServerError: a server refused, failed for good, or does not draw from this policy.
            DataError: a prompt that a server which takes text would read as other tokens.
            Interrupted: a stop was asked for; what has come is kept.
        """
        encoded = {prompt.prompt_id: self.encode(prompt) for prompt in prompts}
        wanted = [(prompt, draw) for prompt in prompts for draw in range(draws)]
        pending = path.with_name(path.name.replace("shard_", "pending_"))
        with Journal(pending) as journal:
            have = {(row["prompt_id"], row["draw"]) for row in journal.rows}
            missing = [(prompt, draw) for prompt, draw in wanted if (prompt.prompt_id, draw) not in have]
            self._fill(context, journal, missing, encoded)
            rows = {(row["prompt_id"], row["draw"]): row for row in journal.rows}
        write_jsonl(path, self._samples([rows[prompt.prompt_id, draw] for prompt, draw in wanted], encoded))
        pending.unlink()

    def _fill(
        self, context: StageContext, journal: Journal, missing: Sequence[tuple[Prompt, int]], encoded: EncodedPrompts
    ) -> None:
        """Append a row for each missing answer as it comes; the first of them are checked."""
        unchecked = journal.rows[-CHECKED:]  # a launch that was killed may not have come to that
        to_check = len(unchecked) + min(CHECKED, len(missing))
        wanted, shown = len(journal.rows) + len(missing), f"{context.spec.name}, {journal.path.stem}"
        for row in self._ask(context, missing, encoded) if missing else ():
            journal.append(row)
            context.reporter.progress(shown, len(journal.rows), wanted, "answers")
            if len(unchecked) < to_check:
                unchecked.append(row)
                if len(unchecked) == to_check:
                    self._check(journal, unchecked, encoded)
        if not missing:
            self._check(journal, unchecked, encoded)

    def _check(self, journal: Journal, rows: Sequence[Row], encoded: EncodedPrompts) -> None:
        """Let the local model read some answers. Raises ServerError when they are not its own; the file goes then."""
        problem = self._problem(rows, encoded)
        if problem:
            journal.path.unlink()
            raise problem

    def _ask(
        self, context: StageContext, missing: Sequence[tuple[Prompt, int]], encoded: EncodedPrompts
    ) -> Iterator[dict[str, Any]]:
        connection = self.connection
        translator = Translator(self.policy, self.template, self.sampling, connection.serving.kind)
        # All prompts before the first answer is paid for: one of them may have no text.
        asked = {p.prompt_id: translator.prompt(p, encoded[p.prompt_id]) for p, _ in missing}
        requests = (
            translator.request(asked[prompt.prompt_id], (*self.key, prompt.prompt_id, draw)) for prompt, draw in missing
        )
        before = connection.client.counts.summary()
        try:
            for answer in connection.client.stream(requests):
                prompt, draw = missing[answer.index]
                row = translator.row(answer, asked[prompt.prompt_id])
                yield {"prompt_id": prompt.prompt_id, "draw": draw, **row}
        finally:
            cost = _difference(before, connection.client.counts.summary())
            context.events.append("asked servers", servers=list(connection.serving.names), **cost)
            context.reporter.line(f"{context.spec.name}: {_in_words(cost)}")

    def _problem(self, rows: Sequence[Row], encoded: EncodedPrompts) -> ServerError | None:
        """What the local model finds wrong with some answers."""
        found, sampling = self.connection.checked, self.sampling
        for row in rows:
            found.add(
                evidence(
                    self.policy.model,
                    encoded[row["prompt_id"]],
                    row["token_ids"],
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                )
            )
        told = [row for row in rows if row["logprob"] is not None]
        own = self._own_logprobs(told, encoded)
        errors = [abs(value - row["logprob"]) for value, row in zip(own, told, strict=True)]
        scaled = [error / math.sqrt(len(row["token_ids"])) for error, row in zip(errors, told, strict=True)]
        if found.speaks_against:
            how = "less likely" if found.z < 0 else "likelier"
            what = f"its tokens are {how} than the policy's own, by {abs(found.mean):.2g} nats each (z = {found.z:.0f})"
        elif scaled and statistics.fmean(scaled) > MAX_LOGPROB_ERROR:
            what = f"its log-probabilities differ from the policy's by {statistics.fmean(errors):.2g} nats an answer"
        else:
            return None
        return ServerError(
            f"what the server answers is not drawn from the policy: {what}",
            where=self.connection.addresses,
            want=f"{self.connection.name} at temperature {sampling.temperature:g}, top_p {sampling.top_p:g}",
            mend="see which model it serves and what it does by default (generation.server.kind says what it is "
            "told); the answers of this shard so far were thrown away",
        )

    def _samples(self, rows: Sequence[Row], encoded: EncodedPrompts) -> Iterator[Sample]:
        own = iter(self._own_logprobs([row for row in rows if row["logprob"] is None], encoded))
        for row in rows:
            yield Sample(
                prompt_id=row["prompt_id"],
                draw=row["draw"],
                text=self.policy.answer_text(row["token_ids"]),
                token_ids=row["token_ids"],
                finish_reason=row["finish_reason"],
                logprob=next(own) if row["logprob"] is None else row["logprob"],
            )

    def _own_logprobs(self, rows: Sequence[Row], encoded: EncodedPrompts) -> list[float]:
        """At the sampling temperature (1 for temperature 0) and before top_p, as the native engine's."""
        return sequence_logprobs(
            self.policy.model,
            [encoded[row["prompt_id"]] for row in rows],
            [row["token_ids"] for row in rows],
            pad_id=self.sampling.pad_id,
            rows=self.rows,
            temperature=self.sampling.temperature or 1.0,
        )


def _difference(before: Row, now: Row) -> dict[str, Any]:
    """What one shard cost, of the client's running totals."""
    again = {kind: n - before["requests_sent_again"].get(kind, 0) for kind, n in now["requests_sent_again"].items()}
    numbers = {key: now[key] - before[key] for key in now if key != "requests_sent_again"}
    return numbers | {"requests_sent_again": {kind: number for kind, number in again.items() if number}}


def _in_words(cost: Row) -> str:
    again = "".join(f", {count} sent again after {kind}" for kind, count in cost["requests_sent_again"].items())
    tokens = f"{cost['prompt_tokens']} tokens of prompts and {cost['completion_tokens']} of answers"
    return f"{cost['requests_answered']} answers of servers, {tokens}{again}"
