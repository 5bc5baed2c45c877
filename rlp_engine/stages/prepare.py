"""Data files or the sandbox -> typed rows, read and checked once, before any model is loaded.

Outputs: NAME.jsonl for every table of [data] that is given (rlp_engine/stages/pipeline.py:DATA_TABLES).
Every later stage reads these, so a source that changes or vanishes cannot change a run half-way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rlp_engine.config.schema import DataConfig
from rlp_engine.data.readers import load_demonstrations, load_preferences, load_prompts
from rlp_engine.data.records import Demonstration, PreferencePair, Prompt
from rlp_engine.data.rows import write_jsonl
from rlp_engine.sandbox.data import World
from rlp_engine.stages.spec import StageContext

Rows = list[Prompt] | list[Demonstration] | list[PreferencePair]


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    if config.data.source == "sandbox":
        tables = sandbox_tables(World(config.sandbox))
    else:
        tables = file_tables(config.data, config.seed, context.reporter.warn)
    for name, rows in tables.items():
        write_jsonl(context.out / f"{name}.jsonl", rows)
    shared = test_instructions_in(tables, tables.keys() - {"test", "validation"})
    if shared:
        context.reporter.warn(
            f"{shared} of {len(tables['test'])} test instructions also stand in the training tables: "
            "their win-rate is not one on unseen instructions"
        )
    in_validation = test_instructions_in(tables, {"validation"})
    if in_validation:
        context.reporter.warn(
            f"{in_validation} of {len(tables['test'])} test instructions also stand in data.validation: "
            "a checkpoint that ppo.select = `judge` chooses is chosen on them"
        )
    return {
        "rows": {name: len(rows) for name, rows in tables.items()},
        "test_instructions_in_training": shared,
        "test_instructions_in_validation": in_validation,
    }


def sandbox_tables(world: World) -> dict[str, Rows]:
    return {
        "demonstrations": world.demonstrations(),
        "preference_instructions": world.prompts("preference"),
        "unlabeled": world.prompts("unlabeled"),
        "validation": world.prompts("validation"),
        "test": world.prompts("test"),
    }


def file_tables(data: DataConfig, seed: int, warn: Callable[[str], None]) -> dict[str, Rows]:
    """Rows of every table whose path is given."""
    loaders = {
        "demonstrations": load_demonstrations,
        "preferences": load_preferences,
        "preference_instructions": load_prompts,
        "unlabeled": load_prompts,
        "validation": load_prompts,
        "test": load_prompts,
    }
    return {
        name: load(file, seed, table=name, warn=warn)
        for name, load in loaders.items()
        if (file := getattr(data, name)).path
    }


def test_instructions_in(tables: dict[str, Rows], names: set[str]) -> int:
    """Test instructions whose normalised text also stands in one of the tables of these names."""
    seen = {
        normalised(prompt)
        for name, rows in tables.items()
        if name in names
        for prompt in (row if isinstance(row, Prompt) else row.prompt for row in rows)
    }
    return sum(normalised(prompt) in seen for prompt in tables.get("test", []))


def normalised(prompt: Prompt) -> str:
    """Instruction and input in lower case with single spaces: equal for instructions that say the same letters."""
    return re.sub(r"\s+", " ", f"{prompt.instruction} {prompt.input}").strip().lower()
