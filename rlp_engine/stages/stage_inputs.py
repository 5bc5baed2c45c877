"""What more than one stage reads: its inputs, and the keys of the config that belong to them."""

from __future__ import annotations

from rlp_engine.config.annotators import annotator_path
from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.judging import JudgeConfig
from rlp_engine.stages.spec import StageInput

# Sections that every stage reads that trains.
TRAINING = ("seed", "model", "compute", "deepspeed", "checkpoint", "log")
TEST_SETS = "test_sets"  # the folder of prepare's output with the rows of each of data.test_sets

# Of [generation], what a stage reads that answers with its own engine.
NATIVE = ("generation.max_prompt_tokens", "generation.max_new_tokens", "generation.rows")


def sft_policy(config: RunConfig) -> StageInput:
    """The SFT policy: made by `sft`, or ready."""
    if config.sft.ready_model:
        return StageInput("sft_policy", path=config.sft.ready_model)
    return StageInput("sft_policy", stage="sft", path="model")


def answering(config: RunConfig) -> tuple[str, ...]:
    """Keys of [generation] in the stages that ask the engine it names. PPO answers natively whatever it says."""
    return (*NATIVE, "generation.engine", "generation.server") if config.generation.engine == "server" else NATIVE


def rows(table: str) -> StageInput:
    """The typed rows that `prepare` made of a table of [data]."""
    return StageInput(table, stage="prepare", path=f"{table}.jsonl")


def rows_of_test_set(name: str) -> StageInput:
    """Those of one of data.test_sets."""
    return StageInput(f"test-set:{name}", stage="prepare", path=f"{TEST_SETS}/{name}.jsonl")


def external(name: str, path: str) -> tuple[StageInput, ...]:
    """A file, a folder or a hub id from outside the run; none when the key is empty."""
    return (StageInput(name, path=path),) if path else ()


def judge_inputs(config: RunConfig, name: str, judge: JudgeConfig) -> tuple[StageInput, ...]:
    """What a judge is read from: a reward model, or the files of annotators."""
    if judge.kind == "server":
        return annotator_inputs(config.judge.annotators)
    return external(name, judge.path if judge.kind == "reward-model" else "")


def annotator_inputs(names: list[str]) -> tuple[StageInput, ...]:
    """Their content is in the stage's fingerprint, wherever the files lie."""
    return tuple(StageInput(f"annotator:{name}", path=str(annotator_path(name))) for name in dict.fromkeys(names))


def judge_sections(judge: JudgeConfig) -> tuple[str, ...]:
    """Sections of the config that a judge reads, besides its own keys."""
    return ("judge",) if judge.kind == "server" else ()


def reward_init(config: RunConfig) -> StageInput:
    """What a reward model starts from: the SFT policy (METHOD 7.1), or another backbone."""
    if config.train_rm.base_model:
        return StageInput("backbone", path=config.train_rm.base_model)
    policy = sft_policy(config)
    return StageInput("backbone", stage=policy.stage, path=policy.path)
