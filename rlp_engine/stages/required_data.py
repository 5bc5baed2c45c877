"""Which tables of [data], and which models of judges, the stages will read, and what the tables must hold."""

from __future__ import annotations

from rlp_engine.config.schema import RunConfig
from rlp_engine.errors import ConfigError
from rlp_engine.stages.stage_inputs import TEST_SETS


def required_data(config: RunConfig, kinds: set[str]) -> list[ConfigError]:
    """What these kinds of stages read and the config does not name, one error each."""
    judges = []
    if "collect" in kinds and config.collect.source == "annotator":
        judges.append(("collect", "collect.annotator", config.collect.annotator))
    if "evaluate" in kinds or ("ppo" in kinds and config.ppo.select == "judge"):
        judges.append(("evaluate", "evaluate.judge", config.evaluate.judge))
    missing = [(stage, f"{key}.path", "MODEL") for stage, key, j in judges if j.kind == "reward-model" and not j.path]
    if config.data.source == "files":
        missing += [
            (stage, f"data.{table}.path", "FILE")
            for table, stage in _tables_of(config, kinds).items()
            if not getattr(config.data, table).path
        ]
    return [ConfigError(f"stage {stage} needs {key}", mend=f"--set {key}={what}") for stage, key, what in missing]


def _tables_of(config: RunConfig, kinds: set[str]) -> dict[str, str]:
    """Tables of [data] that these kinds of stages read -> the first stage that does."""
    tables: dict[str, str] = {}
    if "sft" in kinds and not config.sft.ready_model:
        tables["demonstrations"] = "sft"
    if "collect" in kinds:
        tables["preferences" if config.collect.source == "file" else "preference_instructions"] = "collect"
    if kinds & {"ppo", "sample", "embed", "synthesize"}:
        tables["unlabeled"] = "ppo"
    if "ppo" in kinds and config.ppo.select == "judge":
        tables["validation"] = "ppo"
    if "evaluate" in kinds:
        tables[config.evaluate.instructions] = "evaluate"
    return tables


def ifeval_tables(config: RunConfig) -> list[str]:
    """The files of `prepare` whose every row the IFEval judge must be able to check."""
    tables = []
    if config.evaluate.judge.kind == "ifeval":
        tables = [config.evaluate.instructions, *(f"{TEST_SETS}/{name}" for name in config.data.test_sets)]
        if config.ppo.select == "judge":
            tables.append("validation")
    if config.collect.annotator.kind == "ifeval" and config.collect.source == "annotator":
        tables.append("preference_instructions")
    return tables
