"""The rows that stages hand to each other, one JSON object a line, and those that only users bring.

Frozen dataclasses, validated where they are read (`readers.py`); inside the engine they are trusted.
`prompt_id` is text from the user's data and never becomes a path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction to answer."""

    prompt_id: str
    instruction: str
    input: str = ""
    reference: str | None = None  # the answer that `evaluate` compares with
    meta: dict[str, Any] = field(default_factory=dict)  # subset, or what the sandbox knows about the question


@dataclass(frozen=True, slots=True)
class Demonstration:
    """An instruction and the answer to imitate."""

    prompt: Prompt
    output: str


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one instruction, the better one first."""

    prompt: Prompt
    chosen: str
    rejected: str
    weight: float = 1.0
    meta: dict[str, Any] = field(default_factory=dict)  # annotator, scores, clusters, confidence


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer drawn from a policy.

    `token_ids` are the policy's, the EOS included when there is one; `text` is their decoding without
    special tokens; `logprob` is the sum of log pi over them, in nats, at the sampling temperature and
    before top-p.
    """

    prompt_id: str
    draw: int
    text: str
    token_ids: list[int]
    finish_reason: str  # "stop" (EOS) or "length"
    logprob: float


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Several answers of one policy to one instruction (AlpacaFarm's multisamples)."""

    prompt: Prompt
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """One answer of a named model (AlpacaEval's model_outputs.json)."""

    prompt: Prompt
    output: str
    generator: str = ""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A judgement of two answers (AlpacaEval): 1 = the first is better, 2 = the second, 1.5 = a draw."""

    prompt: Prompt
    output_1: str
    output_2: str
    preference: float
    generator_1: str = ""
    generator_2: str = ""
    annotator: str = ""


Record = Prompt | Demonstration | PreferencePair | SampleSet | Sample | ModelOutput | Annotation
