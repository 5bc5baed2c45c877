"""How many rows the tables of [data] have, as far as it is known before they are read."""

from __future__ import annotations

import json
from pathlib import Path

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.data import DATA_TABLES, DataFile
from rlp_engine.data.rows import count_rows
from rlp_engine.sandbox.data import Split, World

# Of published files that a preset names: sizes as AlpacaFarm (Dubois et al. 2023) and AlpacaEval give them.
PUBLISHED = {
    "hf://datasets/tatsu-lab/alpaca_farm/alpaca_instructions/sft.json": 10_000,
    "hf://datasets/tatsu-lab/alpaca_farm/alpaca_instructions/preference.json": 10_000,
    "hf://datasets/tatsu-lab/alpaca_farm/alpaca_instructions/unlabeled.json": 20_000,
    "hf://datasets/tatsu-lab/alpaca_farm/alpaca_instructions/val.json": 2_000,
    "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval.json": 805,
}


SPLITS: dict[str, Split] = {
    "preference_instructions": "preference",
    "unlabeled": "unlabeled",
    "validation": "validation",
    "test": "test",
}


def table_rows(config: RunConfig, run_dir: Path | None) -> dict[str, int | None]:
    """Table -> rows; None where nobody knows yet. What `prepare` has made counts first."""
    found: dict[str, int | None] = {}
    for table in DATA_TABLES:
        made = run_dir / "prepare" / f"{table}.jsonl" if run_dir else None
        if made and made.is_file():
            found[table] = count_rows(made)
        elif config.data.source == "sandbox":
            found[table] = _of_sandbox(World(config.sandbox), table)
        else:
            found[table] = _of_file(getattr(config.data, table))
    return found


def _of_sandbox(world: World, table: str) -> int | None:
    if table == "demonstrations":
        return len(world.demonstrations())
    return len(world.prompts(SPLITS[table])) if table in SPLITS else None


def _of_file(file: DataFile) -> int | None:
    rows = PUBLISHED.get(file.path)
    path = Path(file.path).expanduser()
    if rows is None and file.path and path.is_file():
        if path.suffix == ".jsonl":
            rows = count_rows(path)
        elif path.suffix == ".json":
            whole = json.loads(path.read_text("utf-8"))
            rows = len(whole) if isinstance(whole, list) else None
    if not file.limit:
        return rows
    return file.limit if rows is None else min(rows, file.limit)
