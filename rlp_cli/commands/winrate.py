"""`rlp winrate SOURCE...`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rlp_cli.render import Output
from rlp_cli.sources import Fields, TestSet, Wheres, annotations_of, data_file


def winrate(
    output: Output,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Annotation files, or evaluated run directories.", show_default=False),
    ],
    subsets: Annotated[bool, typer.Option("--subsets", help="Also a line for every subset.")] = False,
    test_set: TestSet = "",
    field: Fields = None,
    where: Wheres = None,
) -> None:
    """Show the win-rates that annotation files hold. AlpacaEval's and AlpacaFarm's files are read as they are."""
    from rlp_engine.data.judgements import read_judgements
    from rlp_engine.evaluation.annotations import by_contest, by_subset, summary

    rows: list[dict[str, Any]] = []
    for source in sources:
        path = annotations_of(source, test_set)
        for contest, judgements in by_contest(read_judgements(data_file(path, field, where))).items():
            parts = by_subset(judgements)
            named = [] if set(parts) <= {""} else [{"subset": name} | summary(part) for name, part in parts.items()]
            rows.append({"source": source, **contest._asdict(), **summary(judgements), "subsets": named})
    head = ["generator", "reference", "annotator", *(["subset"] if subsets else [])]
    table = []
    for row in rows:
        names = [row[name] or "-" for name in head[:3]]
        table.append([*names, *(["all"] if subsets else []), *_numbers(row)])
        if subsets:
            table += [[*names, part["subset"] or "(none)", *_numbers(part)] for part in row["subsets"]]
    numbers = ["win-rate %", "±", "wins", "losses", "draws", "n", "dropped", "characters", "of reference"]
    output.table([*head, *numbers], table)
    output.result({"win_rates": rows})


def _numbers(row: dict[str, Any]) -> list[str]:
    return [
        _fixed(row["win_rate"], 2),
        _fixed(row["standard_error"], 2),
        *(str(row[name]) for name in ("wins", "losses", "draws", "n", "dropped")),
        _fixed(row["mean_characters"], 0),
        _fixed(row["mean_reference_characters"], 0),
    ]


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
