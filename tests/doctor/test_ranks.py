"""What one of several ranks holds, and how long stages take, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.model import DeepSpeedConfig
from rlp_engine.doctor.duration import stages_seconds
from rlp_engine.doctor.hardware import Rates, gpu_rates
from rlp_engine.doctor.libraries import Libraries
from rlp_engine.doctor.machine import Gpus
from rlp_engine.doctor.memory import StageMemory, stages_memory
from rlp_engine.doctor.shapes import Models, ModelShape
from rlp_engine.doctor.sharing import Sharing
from rlp_engine.doctor.table_rows import table_rows
from rlp_engine.stages.pipeline import build_pipeline

SHAPE = ModelShape(100, 90, 10, 4, 1, 2, 2, 2, 6, True)  # policy 100 numbers, reward model 94, value model 95
LIBRARIES = Libraries(light=1, imported=10, training=100, drift=1000, heap_factor=2.0)
RATES = Rates(low=2000.0, single=1000.0, bandwidth=4000.0, basis="by hand")
ROWS = {"demonstrations": 10, "preference_instructions": 12, "unlabeled": 30, "validation": 2, "test": 5}


def config_of(**sections: object) -> RunConfig:
    return RunConfig.model_validate({"data": {"source": "sandbox"}, **sections})


def memory(stage: str, zero_stage: int, ranks: int = 4, shape: ModelShape = SHAPE, **sections: object) -> StageMemory:
    config = config_of(deepspeed={"zero_stage": zero_stage}, **sections)
    pipeline = build_pipeline(config)
    found = stages_memory(config, pipeline, Models(shape, shape), LIBRARIES, on_device=True, ranks=ranks)
    return next(account for account in found if account.stage == stage)


def seconds(stage: str, ranks: int = 1, **sections: object) -> float | None:
    config = config_of(**sections)
    return stages_seconds(config, build_pipeline(config), Models(SHAPE, SHAPE), ROWS, RATES, ranks)[stage]


@pytest.mark.parametrize(
    ("zero_stage", "held"),
    [
        (1, 100 * (2 + 2) + 25 * (4 + 8)),  # weights and gradients in bfloat16; float32 copy, moments
        (2, 100 * 2 + 25 * (2 + 4 + 8)),
        (3, 25 * (2 + 2 + 4 + 8)),
    ],
)
def test_zero_shares_out_more_with_every_stage(zero_stage: int, held: int) -> None:
    found = memory("sft", zero_stage, model={"dtype": "bfloat16"})
    assert found.roles["policy"] == held


def test_frozen_models_are_whole_on_every_rank_and_a_rollout_gathers_the_trained_ones() -> None:
    rows = {"generation": {"rows": 64, "max_prompt_tokens": 8, "max_new_tokens": 64}}
    small = {"ppo": {"microbatch": 1}, "train_rm": {"score_microbatch": 1}}
    found = memory("ppo", 3, model={"dtype": "bfloat16"}, **rows, **small)
    assert found.roles["reference"] == 200
    assert found.roles["reward model"] == 2 * 94
    assert not found.phase.startswith("learn")
    assert {part.name: part.bytes for part in found.parts}["weights gathered whole by ZeRO-3"] == 2 * (100 + 95)
    assert "weights gathered whole by ZeRO-3" not in [part.name for part in memory("ppo", 2, **rows, **small).parts]


def test_a_rank_decodes_its_part_of_a_rollout() -> None:
    shapes = {"generation": {"rows": 512, "max_prompt_tokens": 8, "max_new_tokens": 64}, "ppo": {"rollout_batch": 256}}
    one, four = (memory("ppo", 2, ranks, **shapes) for ranks in (1, 4))
    caches = [{part.name: part.bytes for part in found.parts}["key-value cache"] for found in (one, four)]
    assert caches[0] == 4 * caches[1]


def test_what_is_offloaded_is_the_hosts() -> None:
    config = {"deepspeed": {"zero_stage": 2, "offload_optimizer": "cpu"}, "model": {"dtype": "bfloat16"}}
    run = config_of(**config)
    found = stages_memory(run, build_pipeline(run), Models(SHAPE, SHAPE), LIBRARIES, on_device=True, ranks=4)
    sft = next(account for account in found if account.stage == "sft")
    assert sft.of_kind("host") == 25 * (4 + 8)
    assert sft.roles["policy"] == 100 * 2 + 25 * 2


def test_one_rank_shares_nothing() -> None:
    assert Sharing.of(1, DeepSpeedConfig(zero_stage=3)) == Sharing()


def test_learning_takes_six_flop_a_parameter_and_token() -> None:
    sft = {"sft": {"epochs": 3, "max_length": 7}}
    assert seconds("sft", **sft) == pytest.approx(3 * 10 * 7 * 6 * 100 / 1000)
    assert seconds("sft", ranks=4, **sft) == pytest.approx(3 * 10 * 7 * 6 * 100 / 1000 / 4)
    # a forward pass more, at the rate of bfloat16
    low = {"dtype": "bfloat16", "gradient_checkpointing": True}
    assert seconds("sft", model=low, **sft) == pytest.approx(3 * 10 * 7 * 8 * 100 / 2000)
    # with adapters a backward pass makes no gradient of the weights
    assert seconds("sft", model={"lora": {"rank": 2}}, **sft) == pytest.approx(3 * 10 * 7 * 4 * 100 / 1000)


def test_decoding_takes_what_reading_takes() -> None:
    # 30 prompts of 8 tokens, 10 answers of 6 each: 300 answers in rows of 20, a step reads 400 bytes of weights and the
    # columns (2 x 1 layer x 2 heads x 2 x 4 bytes = 32 bytes) of 2 prompts x 8 and 20 rows x 3 tokens
    shape = {"generation": {"rows": 20, "max_prompt_tokens": 8, "max_new_tokens": 6}}
    step = max((400 + (2 * 8 + 20 * 3) * 32) / 4000, 2 * 100 * 20 / 1000)
    ten = 2 * 100 * 30 * 8 / 1000 + 300 / 20 * 6 * step
    one_step = max((400 + (20 * 8 + 20 * 3) * 32) / 4000, 2 * 100 * 20 / 1000)
    one = 2 * 100 * 30 * 8 / 1000 + 30 / 20 * 6 * one_step
    assert seconds("round-1/sample", **shape) == pytest.approx(ten + one)


def test_shards_that_do_not_divide_leave_ranks_idle() -> None:
    # 30 prompts in shards of 10: three shards on two ranks, the busier one makes two of them
    shape = {"generation": {"rows": 1000}, "sample": {"shard_prompts": 10}}
    texts = 30 * 10 * min(192 + 300, 512)
    drift = 2 * 94 * 2 * 2000 * 492 / 1000
    assert seconds("round-1/embed", ranks=2, **shape) == pytest.approx(2 * 94 * texts / 1000 * 20 / 30 + drift)


def test_an_unknown_table_makes_unknown_time() -> None:
    config = config_of()
    rows = {**ROWS, "unlabeled": None}
    found = stages_seconds(config, build_pipeline(config), Models(SHAPE, SHAPE), rows, RATES, 1)
    assert found["round-1/sample"] is None
    assert found["train-rm"] is not None


def test_gpus_are_known_as_people_and_drivers_call_them() -> None:
    def bandwidth(name: str, gib: int) -> float:
        rates = gpu_rates(Gpus(1, name, gib * 2**30, is_named=True))
        return rates.bandwidth / 0.6

    assert bandwidth("A100", 80) == pytest.approx(2.039e12)
    assert bandwidth("NVIDIA A100-SXM4-40GB", 39) == pytest.approx(1.555e12)
    assert bandwidth("NVIDIA GeForce RTX 4090", 23) == pytest.approx(1.008e12)
    assert gpu_rates(Gpus(1, "Toy", 2**30, is_named=True)) is None


def test_rows_of_tables_are_counted_where_they_can_be(tmp_path) -> None:
    lines = tmp_path / "u.jsonl"
    lines.write_text('{"instruction": "a"}\n' * 7)
    (tmp_path / "t.json").write_text('[{"instruction": "a"}, {"instruction": "b"}]')
    data = {"unlabeled": {"path": str(lines), "limit": 5}, "test": {"path": str(tmp_path / "t.json")}}
    config = RunConfig.model_validate({"data": {**data, "validation": {"path": "hub:a/b"}}})
    found = table_rows(config, None)
    assert (found["unlabeled"], found["test"], found["validation"]) == (5, 2, None)
    made = tmp_path / "prepare" / "validation.jsonl"
    made.parent.mkdir()
    made.write_text("{}\n" * 3)
    assert table_rows(config, tmp_path)["validation"] == 3
    assert table_rows(config_of(sandbox={"preference_facts": 4}), None)["unlabeled"] == 80


def test_a_gpu_has_what_a_large_shape_leaves() -> None:
    large = replace(SHAPE, parameters=10**9, backbone=10**9)
    found = memory("sft", 2, shape=large, model={"dtype": "bfloat16"})
    buckets = {part.name: part.bytes for part in found.parts}["ZeRO's buckets"]
    assert buckets == 2 * 500_000_000 * 2
