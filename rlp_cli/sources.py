"""Options that say which rows of a data file count, and what a command's SOURCE stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlp_engine.errors import ConfigError

if TYPE_CHECKING:
    from rlp_engine.config.sections.data import DataFile

Fields = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="OURS=THEIRS", help="What a field is called in the file.", show_default=False),
]
Wheres = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Only rows with this value.", show_default=False),
]
TestSet = Annotated[
    str, typer.Option("--test-set", metavar="NAME", help="Of a run: one of data.test_sets, not data.test.")
]


def data_file(path: str, fields: list[str] | None, wheres: list[str] | None) -> DataFile:
    """A file with the --field and --where that were given."""
    from rlp_engine.config.sections.data import DataFile
    from rlp_engine.config.toml_text import parse_value

    where = {key: parse_value(value, None) for key, value in map(split, wheres or [])}
    return DataFile(path=path, fields=dict(map(split, fields or [])), where=where)


def annotations_of(source: str, test_set: str = "") -> str:
    """The annotation file that SOURCE names: a file itself, or that of an evaluated run.

    Raises:
        ConfigError: the run has not been evaluated, or has no such test set.
    """
    folder = Path(source)
    if not folder.is_dir():
        return source
    from rlp_engine.config.load import require_run
    from rlp_engine.run.layout import RunLayout

    require_run(folder)
    evaluated = RunLayout(folder).stage("evaluate")
    if not evaluated.is_dir():
        raise ConfigError(f"{source} has not been evaluated", where=str(evaluated), mend=f"rlp run {source}")
    path = evaluated / "test-sets" / test_set / "annotations.jsonl" if test_set else evaluated / "annotations.jsonl"
    if not path.is_file():
        known = sorted(child.name for child in (evaluated / "test-sets").glob("*") if child.is_dir())
        mend = f"its test sets: {', '.join(known)}" if known else f"see data.test_sets in {source}/run.toml"
        raise ConfigError(f"{source} was not judged on '{test_set}'", where=str(path), mend=mend)
    return str(path)


def split(text: str) -> tuple[str, str]:
    """NAME=VALUE in two."""
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"'{text}': want NAME=VALUE")
    return key.strip(), value.strip()
