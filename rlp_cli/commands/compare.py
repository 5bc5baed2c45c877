"""`rlp compare SOURCE [SOURCE]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rlp_cli.render import Output
from rlp_cli.sources import Fields, TestSet, Wheres, annotations_of, data_file
from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    from rlp_engine.data.judgements import Judgement

Rows = dict[str, list["Judgement"]]  # of each generator
Side = tuple[str, list["Judgement"]]


def compare(
    output: Output,
    first: Annotated[
        str, typer.Argument(metavar="SOURCE", help="An evaluated run, or an annotation file.", show_default=False)
    ],
    second: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Another. Left out: methods of the first.", show_default=False)
    ] = "",
    methods: Annotated[
        str,
        typer.Option(
            "--methods", metavar="A,B", help="What is compared: round-1/spg,ppo. Left out: all that both have."
        ),
    ] = "",
    subset: Annotated[str, typer.Option("--subset", metavar="NAME", help="Only instructions of this subset.")] = "",
    test_set: TestSet = "",
    force: Annotated[bool, typer.Option("--force", help="Though judges or references differ.")] = False,
    field: Fields = None,
    where: Wheres = None,
) -> None:
    """Compare two runs or two methods: paired differences of win-rates, with bootstrap intervals."""
    from rlp_engine.data.judgements import read_judgements
    from rlp_engine.evaluation.annotations import compare as compared

    def read(source: str) -> Rows:
        judgements = read_judgements(data_file(annotations_of(source, test_set), field, where))
        return _generators(judgements, source, subset)

    names = [name.strip() for name in methods.split(",") if name.strip()]
    one = read(first)
    pairs = _across(one, read(second), (first, second), names) if second else _within(one, first, names)
    results = [compared(a, b, names=(x, y), force=force) for (x, a), (y, b) in pairs]
    for result in results:
        if result.unmatched:
            output.warn(f"{result.a} - {result.b}: {result.unmatched} instructions are only in one of them")
    output.table(
        ["a", "b", "a %", "b %", "a - b", "±", "95% interval", "n", "characters a", "b"],
        [
            [
                result.a,
                result.b,
                f"{result.win_rate_a:.2f}",
                f"{result.win_rate_b:.2f}",
                f"{result.difference:+.2f}",
                _fixed(result.standard_error, 2),
                f"{result.low:+.2f} to {result.high:+.2f}",
                str(result.n),
                _fixed(result.mean_characters_a, 0),
                _fixed(result.mean_characters_b, 0),
            ]
            for result in results
        ],
    )
    output.result({"comparisons": [asdict(result) for result in results]})


def _generators(judgements: Sequence[Judgement], source: str, subset: str) -> Rows:
    """The judgements of each generator, all of one annotator against one reference."""
    from rlp_engine.evaluation.annotations import by_contest

    if subset:
        known = list(dict.fromkeys(judgement.subset for judgement in judgements if judgement.subset))
        judgements = [judgement for judgement in judgements if judgement.subset == subset]
        if not judgements:
            raise ConfigError(f"{source} has no subset '{subset}'", mend=f"it has: {', '.join(known) or 'none'}")
    rows: Rows = {}
    for contest, own in by_contest(judgements).items():
        if contest.generator in rows:
            raise ConfigError(
                f"{source} judges {contest.generator} more than once: by other annotators or against other references",
                found=f"annotator {contest.annotator!r}, reference {contest.reference!r} and others",
                mend="choose one, for example: --where annotator=NAME (rlp winrate FILE lists them)",
            )
        rows[contest.generator] = own
    return rows


def _within(rows: Rows, source: str, names: list[str]) -> list[tuple[Side, Side]]:
    """The first method against each of the others."""
    if not names and len(rows) == 2:
        names = list(reversed(rows))  # the later one came of the earlier
    if len(names) < 2:
        raise ConfigError(
            f"{source} has {len(rows)} generators: which are to be compared?",
            mend=f"--methods two or more of: {', '.join(rows)}",
        )
    return [(_side(rows, names[0], source), _side(rows, name, source)) for name in names[1:]]


def _across(one: Rows, two: Rows, sources: tuple[str, str], names: list[str]) -> list[tuple[Side, Side]]:
    """Each method of the one source against the same of the other, or two named ones."""
    if len(names) > 2:
        raise typer.BadParameter("--methods with two sources: one name, or one of the first and one of the second")
    if names:
        chosen = [(names[0], names[-1])]
    elif len(one) == len(two) == 1:
        chosen = [(next(iter(one)), next(iter(two)))]
    else:
        chosen = [(name, name) for name in one if name in two]
    if not chosen:
        found = f"{', '.join(one)} and {', '.join(two)}"
        raise ConfigError(f"{sources[0]} and {sources[1]} share no method", found=found, mend="--methods A,B")
    # Names alone where they tell the two apart.
    first, second = (f"{source}: " if any(a == b for a, b in chosen) else "" for source in sources)
    return [(_side(one, a, sources[0], first), _side(two, b, sources[1], second)) for a, b in chosen]


def _side(rows: Rows, name: str, source: str, prefix: str = "") -> Side:
    name = name if name in rows else name.removesuffix("/ppo")  # the policy's stage is round-1/spg/ppo
    if name not in rows:
        raise ConfigError(f"{source} has no method '{name}'", mend=f"it has: {', '.join(rows)}")
    return f"{prefix}{name}", rows[name]


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
