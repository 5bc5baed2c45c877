"""`rlp data check FILE --as KIND`."""

from __future__ import annotations

import enum
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import typer

from rlp_cli.render import Output
from rlp_cli.text import one_line

MOST_PROBLEMS = 10


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
    field: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="OURS=THEIRS", help="What a field is called in the file.", show_default=False),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COLUMN=VALUE", help="Only rows with this value.", show_default=False),
    ] = None,
) -> None:
    """Say which rows of a file cannot be used, each by its line and with the reason."""
    from rlp_engine.data.check import check_file

    from rlp_engine.config.toml_text import parse_value
    from rlp_engine.errors import DataError

    conditions = {key: parse_value(value, None) for key, value in map(_split, where or [])}
    found = check_file(file, kind.value, dict(map(_split, field or [])), conditions)
    for warning in found.warnings:
        output.warn(warning)
    output.show(f"{file}: {found.rows} rows, {found.good_rows} are {kind.value}", "" if found.problems else "good")
    for number, row in enumerate(found.sample[:show], start=1):
        output.show(f"row {number}", "head")
        for name, value in (asdict(row) if is_dataclass(row) else row).items():
            output.show(f"  {name}: {one_line(str(value), 300)}")
    if not found.problems:
        output.result({**_object(found), "sample": [asdict(r) if is_dataclass(r) else r for r in found.sample[:show]]})
        return
    for place, what in found.problems[:MOST_PROBLEMS]:
        output.say(f"  {place}: {what}")
    if len(found.problems) > MOST_PROBLEMS:
        output.say(f"  and {len(found.problems) - MOST_PROBLEMS} more")
    first, *others = [place for place, _ in found.problems]
    also = f" (also {', '.join(others[:2])})" if others else ""
    raise DataError(
        f"{len(found.problems)} of {found.rows} rows are not {kind.value}",
        where=f"{first}{also}",
        found=found.problems[0][1],
    )


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"'{text}': want NAME=VALUE")
    return key.strip(), value.strip()


def _object(found: Any) -> dict[str, Any]:
    return {"rows": found.rows, "good_rows": found.good_rows, "problems": found.problems, "warnings": found.warnings}
