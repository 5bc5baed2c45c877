"""From a request to run directories, and which stages two of them share."""

from __future__ import annotations

import pytest

from rlp_engine.config.load import load_preset, load_run, set_values
from rlp_engine.errors import ConfigError
from rlp_engine.study.grid import StudyRun, check_runs, make_run, runs_of, shared_stages
from rlp_engine.study.request import Request


def request(**more):
    values = {"preset": "quickstart", "seeds": (42, 43), "methods": ("spg", "uml")} | more
    return Request(**values)


def test_one_run_a_seed_and_one_for_each_value_around_the_preset():
    runs = runs_of(request(sweep={"synthesize.min_confidence": (0.5, 0.7), "ppo.kl_coefficient": (0.1, 0.4)}))
    assert [run.name for run in runs] == [
        "seed-42",
        "seed-42--synthesize.min_confidence=0.7",  # 0.5 is the preset's own
        "seed-43",
        "seed-43--synthesize.min_confidence=0.7",
    ]
    config = load_preset("quickstart", runs[3].sets).config
    assert (config.seed, config.sandbox.seed, config.methods) == (43, 43, ["spg", "uml"])
    assert config.synthesize.min_confidence == 0.7
    assert config.curve.kl_coefficients == [0.1, 0.4]


def test_one_world_for_all_seeds_when_asked():
    runs = runs_of(request(same_world=True, sets={"sandbox.seed": 5}))
    assert [load_preset("quickstart", run.sets).config.sandbox.seed for run in runs] == [5, 5]
    with pytest.raises(ConfigError, match="a world of its own"):
        runs_of(request(sets={"sandbox.seed": 5}))


@pytest.mark.parametrize(
    ("sweep", "what"),
    [
        ({"ppo.kl_coeff": (1,)}, "unknown key"),
        ({"ppo.steps": (0,)}, "ppo.steps"),
        ({"ppo.epochs": ("x",)}, "ppo.epochs"),
    ],
)
def test_what_no_run_can_have_is_said_before_any_is_made(sweep, what):
    with pytest.raises(ConfigError, match=what):
        runs_of(request(sweep=sweep))


def test_names_are_safe_for_shells_and_file_systems_and_differ_when_values_do():
    names = {StudyRun(1, (), "model.path", value).name for value in ("/a/b c", "/a/b;c", "/a/b" + "c" * 200, "plain")}
    assert len(names) == 4
    for name in names:
        assert not set(name) & set("/ ;'\"[]{}*?$&|<>\\")
        assert len(name) < 100


def test_an_edited_run_is_no_longer_one_of_the_study(tmp_path):
    wanted = request(seeds=(42,))
    [run] = runs_of(wanted)
    assert make_run(tmp_path, wanted, run)
    assert not make_run(tmp_path, wanted, run)
    check_runs(tmp_path, wanted, [run])
    set_values(tmp_path / run.name, ["log.every_steps=7"])  # cannot change a result
    check_runs(tmp_path, wanted, [run])
    set_values(tmp_path / run.name, ["ppo.steps=7"])
    with pytest.raises(ConfigError, match=r"seed-42 is not what the study asks for: ppo.steps: 20 -> 7"):
        check_runs(tmp_path, wanted, [run])


def test_more_methods_and_a_curve_go_into_the_runs_that_are_there(tmp_path):
    make_run(tmp_path, request(), runs_of(request())[0])
    more = request(methods=("spg", "uml", "reseed"), sweep={"ppo.kl_coefficient": (0.4,)})
    [run, _] = runs_of(more)
    check_runs(tmp_path, more, [run])
    assert make_run(tmp_path, more, run)
    config = load_run(tmp_path / run.name).config
    assert (config.methods, config.curve.kl_coefficients) == (["spg", "uml", "reseed"], [0.4])


def test_runs_share_the_stages_that_a_value_does_not_touch():
    base, gamma, *_ = runs_of(request(sweep={"synthesize.min_confidence": (0.7,)}))
    configs = [load_preset("quickstart", run.sets).config for run in (base, gamma)]
    shared = shared_stages(*configs)
    assert {"sft", "train-rm", "ppo", "round-1/embed", "round-1/uml/refine-rm", "round-1/uml/ppo"} <= shared
    assert not {"round-1/spg/synthesize", "round-1/spg/refine-rm", "round-1/spg/ppo", "evaluate"} & shared
    assert shared_stages(configs[0], configs[0]) >= shared | {"evaluate"}
