"""study.toml: what a study was asked for, and how a later command adds to it.

    preset = "quickstart"
    seeds = [42, 43]
    methods = ["spg", "reseed"]
    same_world = false
    [set]                        # keys that hold for every run, as `--set`
    "ppo.steps" = 30
    [sweep]                      # one key at a time around the preset
    "ppo.kl_coefficient" = [0.1, 0.4]

Asking again for more seeds, methods or values adds them. What would make the finished runs runs of another
study (another preset, another `--set`) is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit

from rlp_engine.config.layers import at, defaults, parse_sets
from rlp_engine.config.outside import read_config_text
from rlp_engine.config.toml_text import parse_key, parse_toml, parse_value
from rlp_engine.errors import ConfigError
from rlp_engine.run.atomic import write_text

STUDY_TOML = "study.toml"
KL_COEFFICIENT = "ppo.kl_coefficient"
"""Swept inside each run: more PPO stages from the same reward models (`[curve]`), not more runs."""

_OWN_KEYS = {
    "seed": "give --seeds",
    "methods": "give --methods",
    "preset": "give --preset",
    "curve.kl_coefficients": f"give --sweep {KL_COEFFICIENT}=V,V",
}
_HEAD = "Written by `rlp study`. `rlp study DIR` goes on with it; more --seeds, --methods or --sweep values are added."


@dataclass(frozen=True)
class Request:
    """A study. `sets` and `sweep`: dotted key -> value, and -> values."""

    preset: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    sets: Mapping[str, Any] = field(default_factory=dict)
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    same_world: bool = False  # False: in the sandbox every seed has a world of its own


@dataclass(frozen=True)
class Asked:
    """What one command line says; None and empty: it does not say."""

    preset: str = ""
    seeds: str = ""  # "5" = as many, from the preset's seed on; "1,2,3" = these
    methods: Sequence[str] = ()
    sets: Sequence[str] = ()  # KEY=VALUE
    sweep: Sequence[str] = ()  # KEY=VALUE,VALUE
    same_world: bool | None = None


def read_request(study_dir: Path) -> Request | None:
    """The study of this folder, or None when it holds none.

    Raises:
        ConfigError: study.toml is there and cannot be read.
    """
    path = Path(study_dir) / STUDY_TOML
    try:
        values = parse_toml(read_config_text(path), str(path))
        return Request(
            preset=str(values["preset"]),
            seeds=tuple(int(seed) for seed in values["seeds"]),
            methods=tuple(str(method) for method in values["methods"]),
            sets=dict(values.get("set", {})),
            sweep={key: tuple(found) for key, found in values.get("sweep", {}).items()},
            same_world=bool(values.get("same_world", False)),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "study.toml cannot be read",
            where=str(path),
            found=f"{type(error).__name__}: {error}",
            mend="put it right, or choose another folder for a new study",
        ) from error


def write_request(study_dir: Path, request: Request) -> None:
    document = tomlkit.document()
    document.add(tomlkit.comment(_HEAD))
    document["preset"] = request.preset
    document["seeds"] = list(request.seeds)
    document["methods"] = list(request.methods)
    document["same_world"] = request.same_world
    for name, values in (("set", request.sets), ("sweep", request.sweep)):
        if values:
            table = tomlkit.table()
            for key, value in values.items():
                table[key] = _plain(value)
            document[name] = table
    write_text(Path(study_dir) / STUDY_TOML, tomlkit.dumps(document))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return table
    return value


def combined(asked: Asked, old: Request | None, *, seed: int, methods: Sequence[str]) -> Request:
    """The study that this command line means, with what an existing one has already.

    Args:
        seed, methods: the preset's, for a new study that does not say.

    Raises:
        ConfigError: what is asked cannot be read, or contradicts the study.
    """
    sets = {".".join(key): value for key, value in parse_sets(asked.sets).items()}
    sweep = parse_sweep(asked.sweep)
    _refuse_own_keys([*sets, *sweep])
    if old is None:
        return Request(
            preset=asked.preset,
            seeds=parse_seeds(asked.seeds or "5", seed),
            methods=tuple(dict.fromkeys(asked.methods)) or tuple(methods),
            sets=sets,
            sweep=sweep,
            same_world=bool(asked.same_world),
        )
    _refuse_contradictions(asked, sets, old)
    seeds = parse_seeds(asked.seeds, seed) if asked.seeds else ()
    values = {key: _union(old.sweep.get(key, ()), sweep.get(key, ())) for key in {**old.sweep, **sweep}}
    return Request(
        preset=old.preset,
        seeds=_union(old.seeds, seeds),
        methods=_union(old.methods, asked.methods),
        sets=old.sets,
        sweep=values,
        same_world=old.same_world,
    )


def parse_seeds(text: str, first: int) -> tuple[int, ...]:
    """ "5" = first .. first + 4; "1,2,3" = these; "7," = seed 7 alone."""
    words = [word.strip() for word in text.split(",")]
    is_list = "," in text
    try:
        numbers = [int(word) for word in words if word]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or (not is_list and numbers[0] == 0):
        mend = "--seeds 5 for five of them, --seeds 1,2,3 for these, --seeds 7, for seed 7 alone"
        raise ConfigError(f"'{text}' is no number of seeds and no list of them", where="--seeds", mend=mend)
    return tuple(dict.fromkeys(numbers)) if is_list else tuple(range(first, first + numbers[0]))


def parse_sweep(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """ "KEY=V,V" -> dotted key -> values, read as `--set` reads them. Commas inside brackets do not split."""
    sweep: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        key, equals, words = text.partition("=")
        values = [word.strip() for word in _split(words) if word.strip()]
        if not equals or not values:
            mend = f"for example --sweep {KL_COEFFICIENT}=0.03,0.1,0.25"
            raise ConfigError(f"--sweep {text}: want KEY=VALUE,VALUE", where="--sweep", mend=mend)
        path = parse_key(key.strip())
        like = at(defaults(), path)
        read = tuple(parse_value(value, like) for value in values)
        name = ".".join(path)
        sweep[name] = _union(sweep.get(name, ()), read)
    return sweep


def _split(text: str) -> list[str]:
    """At the commas that stand outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in "[{") - (letter in "]}") if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _refuse_own_keys(keys: Iterable[str]) -> None:
    for key in keys:
        if key in _OWN_KEYS:
            raise ConfigError(f"{key} is the study's own to set", where=f"--set or --sweep {key}", mend=_OWN_KEYS[key])


def _refuse_contradictions(asked: Asked, sets: Mapping[str, Any], old: Request) -> None:
    other = "choose another folder for another study; without this option this one goes on"
    if asked.preset and asked.preset != old.preset:
        raise ConfigError(f"this study is of preset '{old.preset}', not of '{asked.preset}'", mend=other)
    if asked.same_world is not None and asked.same_world != old.same_world:
        words = "one world for all seeds" if old.same_world else "a world of its own for each seed"
        raise ConfigError(f"this study has {words}", where="--same-world", mend=other)
    for key, value in sets.items():
        if key not in old.sets:
            what = f"this study does not set {key}: its runs would no longer be runs of one study"
            raise ConfigError(what, where=f"--set {key}", mend=f"{other}; to compare values: --sweep {key}=V,V")
        if old.sets[key] != value:
            what = f"this study has {key} = {old.sets[key]}, not {value}"
            raise ConfigError(what, where=f"--set {key}", mend=f"{other}; to compare values: --sweep {key}=V,V")


def _union(old: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
    """The old ones, then those of the new that are not among them. Values may be lists, so no set."""
    found = list(old)
    for value in new:
        if value not in found:
            found.append(value)
    return tuple(found)
