"""A judge that needs no model: the share of a prompt's demands that an answer meets.

`Prompt.meta["demands"]` holds them as `data/prompt_shapes.py` reads IFEval's columns:
[{"id": ..., argument: value, ...}].
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError, ModelError
from rlp_engine.evaluation.ifeval.checkers import CHECKERS, NEEDS_LANGDETECT, RELATIONS
from rlp_engine.evaluation.judges import ScoringJudge

META = "demands"


class IfevalJudge(ScoringJudge):
    """Score: the share of the demands that are met, 0 to 1. Nothing but the text counts."""

    name = "IFEval's demands"

    def can_judge(self, prompt: Prompt) -> bool:
        return bool(prompt.meta.get(META))

    def scores(
        self, prompts: Sequence[Prompt], texts: Sequence[str], finish_reasons: Sequence[str] | None = None
    ) -> list[float]:
        """As `ScoringJudge.scores`. Raises DataError for a prompt without demands."""
        return [ifeval_parts(prompt, text)["followed"] for prompt, text in zip(prompts, texts, strict=True)]


def ifeval_parts(prompt: Prompt, text: str) -> dict[str, float]:
    """What of the score is what.

    Returns:
        followed: share of the demands that are met (its mean over prompts weighs prompts, not demands, alike).
        strict: 1 when all are, else 0 (its mean is IFEval's prompt-level strict accuracy).

    Raises:
        DataError: the prompt has no demands, or one that is not known.
    """
    met = follows(prompt, text)
    return {"followed": sum(met) / len(met), "strict": float(all(met))}


def follows(prompt: Prompt, text: str) -> list[bool]:
    """Whether the answer meets each demand of the prompt, in their order. An answer without text meets none."""
    demands = _demands(prompt)
    if not text.strip():
        return [False] * len(demands)
    return [CHECKERS[demand["id"]](text, **_arguments(demand)) for demand in demands]


def require_checkable(table: str, prompts: Sequence[Prompt]) -> None:
    """Every prompt of a table of [data] has demands that can be checked here.

    Raises:
        DataError: a prompt has no demands, or one of an unknown kind or with arguments it does not take.
        ModelError: a demand needs the package langdetect, which is not installed.
    """
    try:
        ids = {demand["id"] for prompt in prompts for demand in _demands(prompt)}
    except DataError as error:
        parts = {"found": error.found, "want": error.want, "mend": error.mend}
        raise DataError(error.what, where=f"data.{table}, {error.where}", **parts) from None
    lacking = sorted(ids & NEEDS_LANGDETECT)
    if lacking and importlib.util.find_spec("langdetect") is None:
        raise ModelError(
            "these demands are about the answer's language, and the package that tells languages is not installed",
            where=f"data.{table}",
            found=", ".join(lacking),
            mend='pip install langdetect (or "rlp[ifeval]"), or leave out the rows that have them',
        )


def _demands(prompt: Prompt) -> Sequence[Mapping[str, Any]]:
    """The prompt's demands, each known and with the arguments it takes."""
    demands = prompt.meta.get(META)
    where = f"prompt {prompt.prompt_id}: {prompt.instruction[:40]!r}"
    if not demands:
        raise DataError(
            "a judge of kind 'ifeval' and a row without demands",
            where=where,
            want="IFEval's columns instruction_id_list and kwargs",
            mend="use IFEval's file, or another judge",
        )
    for demand in demands:
        if demand["id"] not in CHECKERS:
            raise DataError(
                f"the demand '{demand['id']}' is not one we can check", where=where, want=", ".join(sorted(CHECKERS))
            )
        if problem := _problem(demand):
            raise DataError(f"the demand '{demand['id']}' {problem}", where=where, found=str(_arguments(demand)))
    return demands


def _problem(demand: Mapping[str, Any]) -> str:
    """What is wrong with the arguments of a demand; "" when nothing is."""
    wanted = {
        name: parameter.annotation
        for name, parameter in inspect.signature(CHECKERS[demand["id"]]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    given = _arguments(demand)
    if wanted.keys() != given.keys():
        return f"takes {', '.join(wanted) or 'no arguments'}"
    for name, value in given.items():
        kind = {"int": int, "str": str, "list[str]": list}[wanted[name]]
        if type(value) is not kind or (kind is list and not all(isinstance(item, str) for item in value)):
            return f"wants `{name}` as {wanted[name]}"
        if name.endswith("relation") and value not in RELATIONS:
            return f"wants `{name}` to be one of: {', '.join(RELATIONS)}"
    return ""


def _arguments(demand: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in demand.items() if name != "id"}
