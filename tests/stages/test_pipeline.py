"""The table of stages: what a config asks for."""

from __future__ import annotations

import pytest

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.data import DataConfig
from rlp_engine.config.sections.judging import EvaluateConfig
from rlp_engine.config.sections.ppo import CurveConfig
from rlp_engine.stages.branches import policies
from rlp_engine.stages.pipeline import build_pipeline
from rlp_engine.stages.required_data import required_data
from rlp_engine.stages.spec import StageSpec


def sandbox(**sections) -> RunConfig:
    return RunConfig(methods=["spg", "reseed"], data=DataConfig(source="sandbox"), **sections)


def by_name(config: RunConfig) -> dict[str, StageSpec]:
    return {spec.name: spec for spec in build_pipeline(config)}


def test_a_curve_adds_a_policy_of_every_reward_model_and_changes_no_other_stage():
    plain = by_name(sandbox())
    curved = by_name(sandbox(curve=CurveConfig(kl_coefficients=[0.00001, 2, 0.5])))
    added = {name: spec.params["kl_coefficient"] for name, spec in curved.items() if name not in plain}
    points = {"kl0.00001": 0.00001, "kl0.5": 0.5, "kl2": 2.0}
    branches = {"": "train-rm", "round-1/spg/": "round-1/spg/refine-rm", "round-1/reseed/": "round-1/reseed/refine-rm"}
    assert added == {f"{folder}ppo-{name}": value for folder in branches for name, value in points.items()}
    for folder, reward in branches.items():
        inputs = {item.name: item.stage for item in curved[f"{folder}ppo-kl0.5"].inputs}
        assert inputs == {"sft_policy": "sft", "reward_model": reward, "unlabeled": "prepare"}
    for name in plain.keys() - {"evaluate"}:
        assert curved[name] == plain[name]


def test_a_point_at_the_runs_own_coefficient_and_branches_left_out_add_nothing():
    config = sandbox(curve=CurveConfig(kl_coefficients=[0.0067, 0.5, 0.5], methods=["spg"]))
    assert policies(config) == {
        "ppo": "ppo",
        "round-1/spg": "round-1/spg/ppo",
        "round-1/spg-kl0.5": "round-1/spg/ppo-kl0.5",
        "round-1/reseed": "round-1/reseed/ppo",
    }


@pytest.mark.parametrize("table", ["test", "validation"])
def test_evaluate_reads_the_instructions_that_are_asked_for(table: str):
    evaluate = EvaluateConfig(instructions=table)
    inputs = {item.name: item for item in by_name(sandbox(evaluate=evaluate))["evaluate"].inputs}
    assert (inputs["instructions"].stage, inputs["instructions"].path) == ("prepare", f"{table}.jsonl")
    missing = required_data(RunConfig(evaluate=evaluate), {"evaluate"})
    assert [error.what for error in missing if "data." in error.what] == [f"stage evaluate needs data.{table}.path"]
