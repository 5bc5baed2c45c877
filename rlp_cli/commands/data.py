"""`rlp data check FILE --as KIND`."""

from __future__ import annotations

import enum
from dataclasses import asdict
from typing import Annotated

import typer

from rlp_cli.render import Output
from rlp_cli.sources import Fields, Wheres, data_file
from rlp_cli.text import one_line

MOST_FINDINGS = 10  # shown; --json has more
ROW_WIDTH = 300  # characters of a value with --show


class Kind(enum.StrEnum):
    """What the rows of a file should be."""

    prompts = "prompts"
    demonstrations = "demonstrations"
    preferences = "preferences"
    samples = "samples"
    outputs = "outputs"
    annotations = "annotations"


def check(
    output: Output,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A local file, hf://... or hub:OWNER/NAME.")],
    kind: Annotated[Kind, typer.Option("--as", help="What its rows should be.", show_default=False)],
    show: Annotated[
        int, typer.Option("--show", min=0, metavar="N", help="Show the first N rows as they are read.")
    ] = 0,
    field: Fields = None,
    where: Wheres = None,
) -> None:
    """Say which rows of a file cannot be used, each by its line and with the reason."""
    from rlp_engine.data.check import check_file
    from rlp_engine.errors import DataError

    found = check_file(data_file(file, field, where), kind.value, show=show)
    for warning in found.warnings[:MOST_FINDINGS]:
        output.warn(warning)
    for note in found.notes[:MOST_FINDINGS]:
        output.say(f"note: {note}")
    output.show(f"{file}: {found.rows} rows, {found.good_rows} good {kind.value}", "" if found.problems else "good")
    for number, row in enumerate(found.sample, start=1):
        output.show(f"row {number}", "head")
        for name, value in row.items():
            output.show(f"  {name}: {one_line(str(value), ROW_WIDTH)}")
    output.result(asdict(found))
    if not found.num_problems:
        return
    listed = found.problems[:MOST_FINDINGS]
    for place, what in listed if len(listed) > 1 else []:
        output.say(f"  {_within(file, place)}: {what}")
    if found.num_problems > len(listed):
        output.say(f"  and {found.num_problems - len(listed)} more")
    (first, what), *others = found.problems
    also = f" (also {', '.join(_within(file, place) for place, _ in others[:2])})" if others else ""
    mend = "correct these rows or take them out: a run refuses the file" if found.rows else "give JSONL, JSON, parquet"
    if "has no `" in what:
        mend = "if the file has it under another name: --field NAME=ITS_NAME"
    count = _count(found.num_problems, found.rows, kind.value)
    raise DataError(count, where=f"{first}{also}", found=what, mend=mend)


def _within(file: str, place: str) -> str:
    """`line 3 (row 2)` for `FILE:3 (row 2)`."""
    rest = place.removeprefix(file)
    return f"line {rest[1:]}" if rest.startswith(":") else rest.strip() or place


def _count(bad: int, rows: int, kind: str) -> str:
    """rows is 0 for a file that cannot be read at all."""
    return f"{bad} of {rows} rows are not {kind}" if rows else f"this is no file of {kind}"
