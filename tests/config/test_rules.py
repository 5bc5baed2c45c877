"""Rules between keys, and files that keys name. Each rule is seen to refuse, and its neighbour to be let through."""

from __future__ import annotations

import pytest

from rlp_engine.config.load import load_run
from rlp_engine.config.rules import cross_field_problems
from rlp_engine.config.schema import RunConfig
from rlp_engine.errors import ConfigError

SANDBOX = {
    "data": {"source": "sandbox"},
    "collect": {"annotator": {"kind": "gold"}},
    "evaluate": {"judge": {"kind": "gold"}},
    "synthesize": {"equivalence": {"kind": "sandbox"}},
    "model": {"init": "scratch", "template": "plain"},
}

HARD = {"views": "wordings", "topic": "fact", "hard_negatives": "only"}


def merged(base: dict, over: dict) -> dict:
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(base.get(key, {}), value) if isinstance(value, dict) else value
    return out


def config_of(**over) -> RunConfig:
    defaults = RunConfig().model_dump()
    return RunConfig.model_validate(merged(merged(defaults, SANDBOX), over))


def test_the_sandbox_config_breaks_no_rule():
    assert cross_field_problems(config_of()) == []
    assert cross_field_problems(RunConfig()) == []


@pytest.mark.parametrize(
    ("over", "key"),
    [
        ({"methods": ["spgg"]}, "methods"),
        ({"methods": ["spg", "uml", "spg"]}, "methods"),
        ({"methods": ["uml", "reseed"]}, "refine_rm.reseed.match"),
        ({"methods": ["reseed"], "refine_rm": {"reseed": {"match": "reseed"}}}, "refine_rm.reseed.match"),
        ({"methods": ["spg"], "curve": {"methods": ["ppo", "uml"]}}, "curve.methods"),
        ({"sft": {"minibatch": 8, "microbatch": 3}}, "sft.minibatch"),
        ({"train_rm": {"minibatch": 8, "microbatch": 3}}, "train_rm.minibatch"),
        ({"refine_rm": {"minibatch": 8, "microbatch": 16}}, "refine_rm.minibatch"),
        ({"ppo": {"minibatch": 256, "microbatch": 3}}, "ppo.minibatch"),
        ({"ppo": {"rollout_batch": 100, "minibatch": 64}}, "ppo.rollout_batch"),
        (
            {"methods": ["uml"], "refine_rm": {"multi_view": {"pairs_per_step": 20, "microbatch": 16}}},
            "refine_rm.multi_view.pairs_per_step",
        ),
        ({"refine_rm": {"multi_view": {"views": "wordings"}}}, "refine_rm.multi_view.topic"),
        ({"refine_rm": {"multi_view": {"topic": "fact"}}}, "refine_rm.multi_view.topic"),
        ({"refine_rm": {"multi_view": {"hard_negatives": "also"}}}, "refine_rm.multi_view.hard_negatives"),
        (
            {"refine_rm": {"multi_view": HARD | {"pairs_per_step": 30, "microbatch": 10}}},
            "refine_rm.multi_view.pairs_per_step",
        ),
        ({"data": {"test": {"path": "x.jsonl"}}}, "data.test.path"),
        ({"data": {"test_sets": {"llmbar": {"path": "x.jsonl"}}}}, "data.test_sets.llmbar.path"),
        ({"data": {"source": "files", "test_sets": {"llmbar": {"limit": 3}}}}, "data.test_sets.llmbar.path"),
        ({"evaluate": {"judge": {"kind": "ifeval"}}}, "evaluate.judge.kind"),
        ({"collect": {"source": "file"}}, "collect.source"),
        ({"data": {"source": "files"}, "collect": {"annotator": {"kind": "reward-model"}}}, "evaluate.judge.kind"),
        ({"evaluate": {"judge": {"path": "some/model"}}}, "evaluate.judge.path"),
        ({"model": {"path": "some/model"}}, "model.path"),
        ({"model": {"template": "chat"}}, "model.template"),
        ({"model": {"scratch": {"hidden_size": 100, "num_heads": 3}}}, "model.scratch.hidden_size"),
        ({"model": {"scratch": {"num_heads": 4, "num_kv_heads": 3}}}, "model.scratch.num_kv_heads"),
        ({"model": {"scratch": {"max_position_embeddings": 100}}}, "model.scratch.max_position_embeddings"),
        ({"ppo": {"candidates": [0, 20]}}, "ppo.candidates"),
        ({"sft": {"optimizer": {"adam_betas": (0.9, 1.0)}}}, "sft.optimizer.adam_betas"),
    ],
)
def test_a_broken_rule_names_its_key(over, key):
    problems = cross_field_problems(config_of(**over))
    assert key in [problem.keys[0] for problem in problems]
    assert all(problem.what and problem.mend for problem in problems)


def test_the_nearest_sizes_are_named():
    (problem,) = cross_field_problems(config_of(ppo={"minibatch": 10, "microbatch": 4, "rollout_batch": 20}))
    assert problem.mend == "--set ppo.minibatch=8 or 12"


def test_pair_batches_matter_only_to_methods_that_use_them():
    assert cross_field_problems(config_of(refine_rm={"multi_view": {"pairs_per_step": 20}})) == []


@pytest.mark.parametrize("hard_negatives", ["none", "also", "only"])
def test_wordings_with_a_topic_break_no_rule(hard_negatives):
    assert cross_field_problems(config_of(refine_rm={"multi_view": HARD | {"hard_negatives": hard_negatives}})) == []


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", None),
        ("there.jsonl", None),
        ("hub:owner/name", None),
        ("hf://datasets/owner/name/file.json", None),
        ("not-there.jsonl", "names a file that is not there"),
        ("folder", "is a folder, not a file"),
        ("s3://bucket/file", "is no address we read"),
    ],
)
def test_data_files_that_are_named_must_be_there(tmp_path, monkeypatch, path, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text("{}\n")
    (tmp_path / "folder").mkdir()
    check_file(tmp_path, "data.test.path", path, fault)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("owner/name", None),
        ("owner/name@v1.0", None),
        ("model", None),
        ("./model", None),
        ("./other", "names a model folder that is not there"),
        ("/no/such/folder", "names a model folder that is not there"),
        ("gpt2", "names a model folder that is not there"),
        ("empty", "is a folder without config.json"),
    ],
)
@pytest.mark.parametrize("key", ["model.path", "sft.ready_model", "train_rm.base_model", "evaluate.judge.path"])
def test_model_folders_that_are_named_must_be_there(tmp_path, monkeypatch, key, path, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    check_file(tmp_path, key, path, fault)


def check_file(run_dir, key, path, fault):
    (run_dir / "run.toml").write_text("# nothing\n")
    if fault is None:
        load_run(run_dir, [f"{key}={path}"])
        return
    with pytest.raises(ConfigError) as caught:
        load_run(run_dir, [f"{key}={path}"])
    assert fault in caught.value.what
    assert caught.value.where == f"--set {key}"
    load_run(run_dir, [f"{key}={path}"], check_files=False)
