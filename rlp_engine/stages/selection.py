"""Which stages a command means: names, folders, kinds, rounds and methods -> stages of the pipeline."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlp_engine.errors import ConfigError
from rlp_engine.stages.spec import StageSpec


@dataclass(frozen=True)
class Selection:
    """What the command line asked for; empty means everything.

    A stage is meant by its name (`round-1/spg/ppo`), by the end of it (`refine-rm`: in every branch), by a
    folder (`round-1/spg`), or by a pattern (`*/ppo`).
    """

    only: str | Sequence[str] = ()  # these and no others
    from_: str | Sequence[str] = ()  # these and all that depends on them
    until: str | Sequence[str] = ()  # these and all that they need
    force: str | Sequence[str] = ()  # run these even if they are done, from their first step
    kinds: str | Sequence[str] = ()  # `rlp ppo`: in the first round where it is due, unless `rounds` is given
    rounds: Sequence[int] = ()  # 0 = before the first refinement
    methods: str | Sequence[str] = ()  # the branches of these methods, what they need, and what belongs to no method


@dataclass(frozen=True)
class Chosen:
    """A selection resolved against a pipeline."""

    names: frozenset[str]
    forced: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()  # asked for in so many words: if one cannot run, that is an error

    def without_force(self, name: str) -> Chosen:
        """The same after a forced stage has run."""
        return Chosen(self.names, self.forced - {name}, self.named)


def round_of(name: str) -> int:
    """0 for stages outside `round-K/`."""
    head = name.split("/")[0].removeprefix("round-")
    return int(head) if head.isdigit() else 0


def method_of(name: str) -> str:
    """`spg` for `round-1/spg/ppo`; "" for what belongs to no method."""
    parts = name.split("/")
    return parts[1] if len(parts) == 3 else ""


def choose(selection: Selection, pipeline: Sequence[StageSpec], is_due: Callable[[Chosen], frozenset[str]]) -> Chosen:
    """Resolve a selection.

    Args:
        is_due: which of the chosen stages would run; asked only to find the next one of a kind.

    Raises:
        ConfigError: a name or kind that fits no stage, or a forced stage that is not selected.
    """
    names = {spec.name for spec in pipeline}
    named: set[str] = set()
    if selection.only:
        named |= _matching(selection.only, pipeline, "--only")
        names &= named
    if selection.from_:
        roots = _matching(selection.from_, pipeline, "--from")
        named |= roots
        names &= _downstream(roots, pipeline)
    if selection.until:
        names &= _upstream(_matching(selection.until, pipeline, "--until"), pipeline)
    if selection.rounds:
        names &= {spec.name for spec in pipeline if round_of(spec.name) in selection.rounds}
    if selection.methods:
        names &= _of_methods(_several(selection.methods), pipeline)
    if selection.kinds:
        of_kind = {spec.name for spec in pipeline if spec.kind in _several(selection.kinds)}
        names &= of_kind
        named |= of_kind
    if not names:
        raise ConfigError(
            "this run has no such stage" if selection.kinds else "no stage fits all of these options",
            found=_in_words(selection),
            want=", ".join(spec.name for spec in pipeline),
        )
    forced = _forced(selection, pipeline, names)
    if selection.kinds and not selection.rounds:
        due = is_due(Chosen(frozenset(names), forced)) or names
        earliest = min(round_of(name) for name in due)
        names = {name for name in names if round_of(name) == earliest}
    return Chosen(frozenset(names), forced & names, frozenset(named & names))


def _forced(selection: Selection, pipeline: Sequence[StageSpec], names: set[str]) -> frozenset[str]:
    selected = [spec for spec in pipeline if spec.name in names]
    _matching(selection.force, pipeline, "--force")  # an unknown name is told apart from one not selected
    return frozenset(_matching(selection.force, selected, "--force"))


def _in_words(selection: Selection) -> str:
    """Such as `--only ppo, --round 2`."""
    options = {"kinds": "stages of kind", "rounds": "--round", "methods": "--method"}
    named = {options.get(key, f"--{key.rstrip('_')}"): value for key, value in vars(selection).items() if value}
    return ", ".join(f"{option} {','.join(map(str, _several(value)))}" for option, value in named.items())


def _several(value: str | Sequence[str]) -> Sequence[str]:
    """A text alone stands for a list of one; empty, for none."""
    return ([value] if value else []) if isinstance(value, str) else value


def _matching(patterns: str | Sequence[str], pipeline: Sequence[StageSpec], option: str) -> set[str]:
    names = [spec.name for spec in pipeline]
    found: set[str] = set()
    for pattern in _several(patterns):
        matches = [name for name in names if name == pattern]
        matches = matches or [name for name in names if name.endswith(f"/{pattern}")]
        matches = matches or [name for name in names if name.startswith(f"{pattern.rstrip('/')}/")]
        matches = matches or fnmatch.filter(names, pattern)
        if not matches:
            near = [name for name in names if pattern in name.split("/")][:1]
            near = [f"{near[0].rpartition('/')[0]}"] if near else difflib.get_close_matches(pattern, names, n=1)
            raise ConfigError(
                f"no stage '{pattern}' among those selected" if option == "--force" else f"no stage '{pattern}'",
                where=option,
                want=", ".join(names),
                mend=f"did you mean '{near[0]}'?" if near else "",
            )
        found.update(matches)
    return found


def _upstream(names: set[str], pipeline: Sequence[StageSpec]) -> set[str]:
    """The stages and all that they need."""
    found = set(names)
    for spec in reversed(pipeline):
        if spec.name in found:
            found.update(item.stage for item in spec.inputs if item.stage)
    return found


def _downstream(names: set[str], pipeline: Sequence[StageSpec]) -> set[str]:
    """The stages and all that depends on them."""
    found = set(names)
    for spec in pipeline:
        if any(item.stage in found for item in spec.inputs):
            found.add(spec.name)
    return found


def _of_methods(methods: Sequence[str], pipeline: Sequence[StageSpec]) -> set[str]:
    known = sorted({method_of(spec.name) for spec in pipeline} - {""})
    for method in methods:
        if method not in known:
            raise ConfigError(
                f"this run has no method '{method}'",
                where="--method",
                want=", ".join(known),
                mend="add it to `methods` in run.toml",
            )
    branches = {spec.name for spec in pipeline if method_of(spec.name) in methods}
    return _upstream(branches, pipeline) | {spec.name for spec in pipeline if not method_of(spec.name)}
