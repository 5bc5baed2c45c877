"""Problems of a config in words for a user: what pydantic found, where it stands, how to mend it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from rlp_engine.config.layers import all_keys, at
from rlp_engine.config.schema import RunConfig
from rlp_engine.config.toml_text import KeyPath
from rlp_engine.errors import ConfigError


@dataclass(frozen=True)
class Problem:
    """What is wrong, with the dotted keys it is about (the first is where to look), and how to mend it."""

    keys: tuple[str, ...]
    what: str
    mend: str
    path: tuple[str, ...] = ()  # of the first key, where a part of it may hold a dot


def nearest(word: str, words: list[str] | tuple[str, ...]) -> str:
    """ "did you mean 'X'?  ", or nothing when no word is near."""
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean '{near[0]}'?  " if near else ""


def schema_problems(merged: dict[str, Any], run_dir: str) -> list[Problem]:
    """Unknown keys and values of the wrong type or range. Strict: "3" is no number, 1 is no true."""
    try:
        RunConfig.model_validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        found: dict[str, Problem] = {}
        for detail in error.errors(include_url=False):
            path = _existing(merged, detail["loc"])
            key = ".".join(path)
            found.setdefault(key, replace(_schema_problem(detail, path, merged, run_dir), path=path))
        return list(found.values())
    return []


def _existing(merged: Any, location: tuple[int | str, ...]) -> KeyPath:
    """pydantic's location as far as it names keys: list indexes and members of a union are cut off."""
    path: list[str] = []
    for part in location:
        if not isinstance(merged, dict) or part not in merged:
            break
        path.append(str(part))
        merged = merged[part]
    return tuple(path)


def _schema_problem(detail: Any, path: KeyPath, merged: dict[str, Any], run_dir: str) -> Problem:
    key = ".".join(path)
    show = f"rlp config show {run_dir}"
    if detail["type"] == "extra_forbidden":
        return Problem((key,), f"unknown key '{key}'", f"{_nearest_key(path)}All keys: {show}")
    value = at(merged, path)
    if detail["type"] == "model_type":
        return Problem((key,), f"'{key}' is a table of keys, not a value", f"its keys: {show}")
    if detail["type"] == "value_error":
        return Problem((key,), f"{key}: {detail['ctx']['error']}", f"What they are: {show}")
    wanted = (
        detail["msg"].removeprefix("Input should be ").replace("a valid ", "a ").replace("a integer", "a whole number")
    )
    wanted = (
        wanted.replace("a string", "text in quotes").replace("a array", "a list").replace("a boolean", "true or false")
    )
    near = ""
    if detail["type"] == "literal_error":
        wanted = "one of " + wanted.replace(" or ", ", ")
        near = nearest(str(value), wanted.replace("'", "").removeprefix("one of ").split(", "))
    return Problem((key,), f"{key} = {value!r}: want {wanted}", f"{near}What it is: {show}")


def _nearest_key(path: KeyPath) -> str:
    """The nearest key of the same table; or the same name in another table; or the nearest of all."""
    keys = all_keys()
    prefix = ".".join(path[:-1])
    siblings = {key[len(prefix) + 1 if prefix else 0 :].split(".")[0] for key in keys if key.startswith(prefix)}
    hint = nearest(path[-1], sorted(siblings))
    if hint:
        return hint.replace("'", f"'{prefix}.", 1) if prefix else hint
    elsewhere = [key for key in keys if key.rpartition(".")[2] == path[-1]]
    return f"did you mean '{elsewhere[0]}'?  " if elsewhere else nearest(".".join(path), keys)


def as_error(problems: Sequence[Problem], places: Mapping[KeyPath, str], fallback: str) -> ConfigError:
    errors = [ConfigError(p.what, where=_place(p, places) or fallback, mend=p.mend) for p in problems]
    if len(errors) == 1:
        return errors[0]
    return ConfigError(f"{len(errors)} problems in the config", problems=list(errors))


def _place(problem: Problem, places: Mapping[KeyPath, str]) -> str:
    """Where the first of its keys that someone wrote stands."""
    for path in [problem.path] if problem.path else [tuple(key.split(".")) for key in problem.keys]:
        below = [place for written, place in places.items() if written[: len(path)] == path]
        if path in places or below:
            return places[path] if path in places else below[0]
        for length in range(len(path) - 1, 0, -1):  # a free-form table is written as one value
            if path[:length] in places:
                return places[path[:length]]
    return ""
