"""Data files or the sandbox -> typed rows, read and checked once, before any model is loaded.

Outputs: NAME.jsonl for every table of [data] that is given (config/sections/data.py:DATA_TABLES), and
test_sets/NAME.jsonl for each of data.test_sets.
Every later stage reads these, so a source that changes or vanishes cannot change a run half-way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rlp_engine.config.sections.data import DataConfig
from rlp_engine.data.readers import load_demonstrations, load_preferences, load_prompts
from rlp_engine.data.records import Demonstration, PreferencePair, Prompt
from rlp_engine.data.rows import write_jsonl
from rlp_engine.evaluation.ifeval.judge import require_checkable
from rlp_engine.sandbox.data import World
from rlp_engine.stages.spec import StageContext
from rlp_engine.stages.stage_inputs import TEST_SETS

Rows = list[Prompt] | list[Demonstration] | list[PreferencePair]


def run(context: StageContext) -> dict[str, Any]:
    config = context.config
    if config.data.source == "sandbox":
        tables = sandbox_tables(World(config.sandbox))
    else:
        tables = file_tables(config.data, config.seed, context.reporter.warn)
    for name in context.spec.params.get(
        "ifeval_tables", ()
    ):  # before anything is trained for a judge that cannot judge
        require_checkable(name, tables.get(name, []))
    for name, rows in tables.items():
        write_jsonl(context.out / f"{name}.jsonl", rows)
    shared = overlap(tables, "test", training_tables(tables))
    if shared:
        context.reporter.warn(
            f"{shared} of {len(tables['test'])} test instructions also stand in the training tables: "
            "their win-rate is not one on unseen instructions"
        )
    for name in tables:
        if name.startswith(f"{TEST_SETS}/") and (seen := overlap(tables, name, training_tables(tables))):
            context.reporter.warn(f"{seen} of {len(tables[name])} instructions of {name} also stand in training tables")
    in_validation = overlap(tables, "test", {"validation"})
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
    tables: dict[str, Rows] = {
        name: load(file, seed, table=name, warn=warn)
        for name, load in loaders.items()
        if (file := getattr(data, name)).path
    }
    for name, file in data.test_sets.items():
        tables[f"{TEST_SETS}/{name}"] = load_prompts(file, seed, table=f"test_sets.{name}", warn=warn)
    return tables


def training_tables(tables: dict[str, Rows]) -> set[str]:
    return {name for name in tables if name not in ("test", "validation") and not name.startswith(f"{TEST_SETS}/")}


def overlap(tables: dict[str, Rows], test: str, names: set[str]) -> int:
    """Instructions of a test table whose normalised text also stands in one of the tables of these names."""
    seen = {
        normalised(prompt)
        for name, rows in tables.items()
        if name in names
        for prompt in (row if isinstance(row, Prompt) else row.prompt for row in rows)
    }
    return sum(normalised(prompt) in seen for prompt in tables.get(test, []))


def normalised(prompt: Prompt) -> str:
    """Instruction and input in lower case with single spaces: equal for instructions that say the same letters."""
    return re.sub(r"\s+", " ", f"{prompt.instruction} {prompt.input}").strip().lower()
