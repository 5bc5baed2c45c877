"""RLAIF in `synthesize`: the policy that made the samples, or a server, judges two answers of each prompt (METHOD 3.5).

A shard's judgements appear in one rename, so that a restarted stage does not ask for them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from rlp_engine.annotation.server_judge import ServerJudge
from rlp_engine.data.records import Prompt
from rlp_engine.data.rows import write_jsonl
from rlp_engine.data.templates import PromptTemplate
from rlp_engine.generation.rlaif import Comparison, RlaifJudge, Verdict
from rlp_engine.methods.synthetic_preferences import rlaif_preference
from rlp_engine.models.policy import load_policy
from rlp_engine.stages.common import prepare_device
from rlp_engine.stages.judging import server_judge
from rlp_engine.stages.spec import StageContext

Orders = tuple[tuple[float, float], tuple[float, float]]


LOG_ZERO = -700.0  # nats: the logarithm of a probability that is 0, finite because JSON has no infinity


class AsksPolicy(Protocol):
    """Both orders of each comparison, as log-probabilities (`generation.rlaif.RlaifJudge`)."""

    def ask(self, comparisons: Sequence[Comparison]) -> list[Verdict]: ...


class HasAnswers(Protocol):
    """A prompt and its answers, in sampling order."""

    prompt: Prompt
    answers: list[str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was said of two answers to one prompt: one line of judgements/shard_NNNNN.jsonl."""

    prompt_id: str
    first: int  # index of the answer among the n
    second: int
    first_order: tuple[float, float] | None  # log-probabilities of the two labels, nats, `first` shown first
    second_order: tuple[float, float] | None  # `second` shown first; None: what a server answered cannot be read
    shortened: bool  # an answer was cut to fit

    @property
    def orders(self) -> Orders | None:
        """None when one of them cannot be read: the other alone would bring the position bias back."""
        return (self.first_order, self.second_order) if self.first_order and self.second_order else None

    @property
    def preference(self) -> float | None:
        """Probability that the first answer is the better one; None when an order cannot be read."""
        return rlaif_preference(*self.orders) if self.orders else None


class ServerRlaif:
    """Annotators behind a server in the policy's place."""

    def __init__(self, judge: ServerJudge) -> None:
        self.judge = judge

    def ask(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """As `RlaifJudge.ask`; an order that cannot be read is None."""
        return [
            Verdict(label_logprobs(first), label_logprobs(None if second is None else 3 - second), False)
            for first, second in self.judge.both_orders(comparisons)
        ]


def label_logprobs(preference: float | None) -> tuple[float, float] | None:
    """Log-probabilities (nats) of the labels of the answers shown first and second, from a preference in [1, 2]."""
    if preference is None:
        return None
    return tuple(math.log(p) if p > 0 else LOG_ZERO for p in (2 - preference, preference - 1))


def load_judge(context: StageContext) -> RlaifJudge | ServerRlaif:
    config = context.config
    if config.synthesize.rlaif.engine == "server":
        return ServerRlaif(server_judge(context, config.synthesize.rlaif.annotators))
    settings = config.synthesize.rlaif
    policy = load_policy(context.inputs["policy"], config.model, device=prepare_device(context))
    judge = RlaifJudge(
        policy,
        PromptTemplate(config.model.template, policy.tokenizer),
        prompt=settings.prompt,
        labels=settings.labels,
        max_length=settings.max_length,
        microbatch=settings.microbatch,
    )
    if unknown := judge.unknown_prompt_tokens:
        context.reporter.warn(f"the policy's tokenizer does not know {unknown} words of synthesize.rlaif.prompt")
    return judge


def judge_shard(
    context: StageContext,
    judge: AsksPolicy,
    groups: Sequence[HasAnswers],
    drawn: Sequence[tuple[int, int]],
    name: str,
) -> list[Judgement | None]:
    """What the judge says of the two answers drawn for each prompt; None where their texts are equal."""
    path = context.out / "judgements" / f"{name}.jsonl"
    if not path.exists():
        write_jsonl(path, ask(judge, groups, drawn))
    made = {judgement.prompt_id: judgement for judgement in map(_judgement, path.read_text("utf-8").splitlines())}
    return [made.get(group.prompt.prompt_id) for group in groups]


def ask(judge: AsksPolicy, groups: Sequence[HasAnswers], drawn: Sequence[tuple[int, int]]) -> list[Judgement]:
    """Judgements of the prompts whose two answers differ."""
    asked = [
        (group.prompt.prompt_id, first, second, Comparison(group.prompt, group.answers[first], group.answers[second]))
        for group, (first, second) in zip(groups, drawn, strict=True)
        if group.answers[first].strip() != group.answers[second].strip()
    ]
    verdicts = judge.ask([comparison for *_, comparison in asked])
    return [
        Judgement(prompt_id, first, second, **asdict(verdict))
        for (prompt_id, first, second, _), verdict in zip(asked, verdicts, strict=True)
    ]


def _judgement(line: str) -> Judgement:
    values = json.loads(line)
    orders = {key: values[key] and tuple(values[key]) for key in ("first_order", "second_order")}
    return Judgement(**values | orders)
