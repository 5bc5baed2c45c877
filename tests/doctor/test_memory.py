"""What stages hold, added up by hand for a model of 100 parameters."""

from dataclasses import replace

from rlp_engine.config.schema import RunConfig
from rlp_engine.doctor.libraries import HEAP_LIMIT, Libraries
from rlp_engine.doctor.machine import Gpus, free_memory, parse_gpus
from rlp_engine.doctor.memory import heads_and_critic, stages_memory
from rlp_engine.doctor.shapes import Models, ModelShape
from rlp_engine.methods.multi_view_heads import Critic, ViewHeads
from rlp_engine.stages.pipeline import build_pipeline

LAYER = ("layers.0.mlp.up_proj", 4, 6)
SHAPE = ModelShape(100, 90, 10, 4, 1, 2, 2, 2, 6, True, (LAYER,))
LIBRARIES = Libraries(light=1, imported=10, training=100, drift=1000, heap_factor=2.0)


def of(stage: str, models: Models | None = None, *, on_device: bool = True, **sections):
    config = RunConfig.model_validate({"data": {"source": "sandbox"}, **sections})
    found = stages_memory(
        config, build_pipeline(config), models or Models(SHAPE, SHAPE), LIBRARIES, on_device=on_device
    )
    return next(account for account in found if account.stage == stage)


def kinds(account) -> tuple[int, int]:
    return account.of_kind("weights"), account.of_kind("training")


def test_full_training_holds_four_numbers_a_parameter():
    assert kinds(of("sft")) == (400, 1200)
    # in bfloat16: 2 bytes a weight, 4 of the copy that AdamW works on, gradient and moments in float32
    large = replace(SHAPE, parameters=10**6)  # more than its activations: gradients of one pass in bfloat16 too
    low = of("sft", Models(large, large), model={"dtype": "bfloat16"})
    assert (low.phase, *kinds(low)) == ("end of a backward pass", 2 * 10**6 + 4 * 10**6, 12 * 10**6 + 2 * 10**6)


def test_ppo_holds_four_models_of_which_two_learn():
    weights = 4 * (100 + 100 + 94 + 95)  # policy, reference, reward model, value model
    assert kinds(of("ppo")) == (weights, 3 * 4 * (100 + 95))


def test_ppo_with_adapters_holds_one_base():
    lora = {"lora": {"rank": 2}}
    adapters = 4 * 2 * (4 + 6)
    assert kinds(of("ppo", model=lora)) == (400 + 3 * adapters, 2 * 3 * adapters)
    other = ModelShape(100, 90, 11, 4, 1, 2, 2, 2, 6, True, (LAYER,))  # a reward model on another base
    assert kinds(of("ppo", Models(SHAPE, other), model=lora)) == (400 + 380 + 376 + 2 * adapters, 2 * 3 * adapters)


def test_a_phase_counts_alone():
    deep = replace(SHAPE, layers=40)
    few = of("ppo", Models(deep, deep), generation={"rows": 1}, ppo={"microbatch": 64})
    rows = {"rows": 512, "max_prompt_tokens": 8, "max_new_tokens": 64}
    many = of("ppo", generation=rows, ppo={"microbatch": 1}, train_rm={"score_microbatch": 1})
    assert (few.phase, many.phase) == ("learn, policy", "generate")
    assert [part.name for part in many.parts if part.kind == "working"] == ["key-value cache", "choosing tokens"]
    # 512 rows of 8 + 64 columns and 32 newest ones, two heads of two, keys and values, float32
    assert many.parts[-2].bytes == 2 * 512 * (8 + 64 + 32) * 4 * 4


def test_answers_to_one_prompt_share_its_cache():
    rows = {"rows": 20, "max_prompt_tokens": 1000, "max_new_tokens": 4096}
    sampled = of("round-1/sample", generation=rows, sample={"shard_prompts": 4, "num_per_prompt": 10})
    parts = {part.name: part.bytes for part in sampled.parts}
    assert sampled.phase == "prefill of freed rows"
    assert parts["key-value cache"] == 2 * 20 * (4096 + 32) * 4 * 4
    assert parts["cache of prompts"] == 2 * 2 * 1000 * 4 * 4  # two prompts for twenty rows
    assert parts["prefill: cache"] == 2 * 1 * 1000 * 4 * 4  # one is admitted when ten rows have ended


def test_small_blocks_cost_more_on_a_cpu_and_large_ones_do_not():
    def activations(microbatch: int, *, on_device: bool) -> int:
        account = of("sft", sft={"microbatch": microbatch, "max_length": 64}, on_device=on_device)
        return next(part.bytes for part in account.parts if part.name == "policy: activations")

    assert activations(1, on_device=False) == 2 * activations(1, on_device=True) > 0
    many = HEAP_LIMIT // (64 * 2 * 4)  # then the smallest block, a number a head and token, is that large
    assert activations(many, on_device=False) == activations(many, on_device=True)


def test_what_a_process_holds_without_a_model():
    judged = {"collect": {"annotator": {"kind": "gold"}}}
    assert of("prepare", **judged).base == 1
    assert of("round-1/spg/synthesize", synthesize={"equivalence": {"kind": "exact-match"}}).base == 10
    assert of("sft").base == 100
    assert of("round-1/embed").base == 1100


def test_heads_and_critic_are_those_of_the_method():
    real = [ViewHeads(4, 8, 3), Critic(3, 3, 8)]
    assert heads_and_critic(4, 8, 3) == sum(p.numel() for module in real for p in module.parameters())


def test_gpus_as_people_write_them():
    assert parse_gpus("8xA100-80G") == Gpus(8, "A100", 80 * 2**30, is_named=True)
    assert parse_gpus("H200-141GB") == Gpus(1, "H200", 141 * 2**30, is_named=True)
    for wrong in ("8", "A100", "8xA100", "0xA100-80G", "8xA100-0G", "8xA100-80M"):
        assert parse_gpus(wrong) is None, wrong


def test_a_container_may_have_less_memory_than_its_machine(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable: 700 kB\n")
    assert free_memory(meminfo, tmp_path) == 700 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(meminfo, tmp_path) == 700 * 1024
    (tmp_path / "memory.max").write_text("11000\n")
    assert free_memory(meminfo, tmp_path) == 10_000
