"""defaults < preset < run.toml < --set; every problem at once, each with its place and a way out."""

from __future__ import annotations

import os
import subprocess
import tomllib

import pytest
from small_pipeline import mounted

from rlp_engine.config.describe import batch_arithmetic, describe, differences
from rlp_engine.config.load import create_run, load_preset, load_run, require_new, run_toml_text, set_values
from rlp_engine.config.presets import list_presets, preset_path
from rlp_engine.config.schema import RunConfig
from rlp_engine.errors import ConfigError, ResourceError

SOUND = """\
seed = 7

[data]
source = "sandbox"   # no files

[collect.annotator]
kind = "gold"

[evaluate.judge]
kind = "gold"

[model]
init = "scratch"
template = "plain"

[synthesize.equivalence]
kind = "sandbox"
"""


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run.toml").write_text(SOUND)
    return tmp_path


def problems_of(error: ConfigError) -> list[ConfigError]:
    return error.problems or [error]


def test_a_set_beats_run_toml_which_beats_the_defaults(run_dir):
    resolved = load_run(run_dir, ["ppo.steps=3"])
    assert (resolved.config.seed, resolved.config.ppo.steps, resolved.config.rounds) == (7, 3, 1)
    assert resolved.sources["seed"] == "run.toml"
    assert resolved.sources["ppo.steps"] == "--set"
    assert resolved.sources["rounds"] == "default"
    assert len(resolved.sources) == len(describe(resolved))


def test_one_key_of_a_table_keeps_that_stages_other_defaults(run_dir):
    """train_rm's learning rate is 3e-6, OptimizerConfig's own is 1e-5: naming another key must not change it."""
    optimizer = load_run(run_dir, ["train_rm.optimizer.schedule=linear"]).config.train_rm.optimizer
    assert (optimizer.schedule, optimizer.learning_rate) == ("linear", 3e-6)


def test_every_problem_is_reported_at_once_with_its_line(run_dir):
    path = run_dir / "run.toml"
    path.write_text(SOUND + '\n[ppo]\nkl_coeff = 0.1\nsteps = true\nkl_estimator = "k2"\nrollout_batch = 100\n')
    with pytest.raises(ConfigError) as caught:
        load_run(run_dir, ["ppo.clip_ratio=0", "generation.row=4", "kl_target=3", "sft=3"])
    found = {problem.what: problem for problem in problems_of(caught.value)}
    lines = path.read_text().splitlines()

    def line_of(text: str) -> str:
        return f"{path}, line {next(i for i, line in enumerate(lines, 1) if line.startswith(text))}"

    assert found["unknown key 'ppo.kl_coeff'"].where == line_of("kl_coeff")
    assert found["unknown key 'ppo.kl_coeff'"].mend.startswith(
        "did you mean 'ppo.kl_coefficient'?  All keys: rlp config"
    )
    assert found["ppo.steps = True: want a whole number"].where == line_of("steps")
    assert found["ppo.kl_estimator = 'k2': want one of 'k1', 'k3', 'clamped'"].where == line_of("kl_estimator")
    assert found["ppo.rollout_batch = 100 is not a multiple of ppo.minibatch = 256"].where == line_of("rollout_batch")
    assert found["ppo.clip_ratio = 0: want greater than 0"].where == "--set ppo.clip_ratio"
    assert "'generation.rows'" in found["unknown key 'generation.row'"].mend
    assert "'ppo.kl_target'" in found["unknown key 'kl_target'"].mend, "the same name in another table is the nearest"
    assert "'sft' is a table of keys, not a value" in found
    assert len(found) == 8
    assert caught.value.what == "8 problems in the config"


def test_a_rule_about_a_bad_key_is_not_reported_twice(run_dir):
    with pytest.raises(ConfigError) as caught:
        load_run(run_dir, ["ppo.minibatch=many", "ppo.rollout_batch=100"])
    assert [p.what for p in problems_of(caught.value)] == ["ppo.minibatch = 'many': want a whole number"]


def test_a_tables_own_rule_is_found_beside_a_bad_key_in_it(run_dir):
    sets = ["collect.label_noise.flip_share=0.1", "collect.label_noise.temperature=1", "collect.label_noise.flip=1"]
    with pytest.raises(ConfigError) as caught:
        load_run(run_dir, sets)
    assert {p.what.split(":")[0] for p in problems_of(caught.value)} == {
        "unknown key 'collect.label_noise.flip'",
        "collect.label_noise",
    }


def test_text_that_is_not_toml_is_named_by_line(run_dir):
    (run_dir / "run.toml").write_text("seed = 1\nmethods = spg\n")
    with pytest.raises(ConfigError) as caught:
        load_run(run_dir)
    assert caught.value.where == f"{run_dir}/run.toml, line 2"


def test_a_folder_without_run_toml_is_not_a_run(tmp_path):
    with pytest.raises(ConfigError, match="is not a run directory") as caught:
        load_run(tmp_path)
    assert "rlp run --preset" in caught.value.mend


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("ppo.kl_coefficient=.5", "ppo.kl_coefficient", 0.5),
        ("ppo.steps=1e2", "ppo.steps", 100),
        ("model.path=1234/5", "model.path", "1234/5"),
        ("model.revision=2024", "model.revision", "2024"),
        ('model.revision="2024"', "model.revision", "2024"),
        ("ppo.mask_padding=False", "ppo.mask_padding", False),
        ("methods=spg,uml", "methods", ["spg", "uml"]),
        ('methods=["reseed", "spg"]', "methods", ["reseed", "spg"]),
        ("ppo.candidates=1,2", "ppo.candidates", [1, 2]),
        ("ppo.optimizer.adam_betas=[0.9, 0.95]", "ppo.optimizer.adam_betas", (0.9, 0.95)),
        ("data.test.fields.output=reply", "data.test.fields", {"output": "reply"}),
        ('data.test.where."data set"=3', "data.test.where", {"data set": 3}),
        ("data.test.where.datasplit=eval", "data.test.where", {"datasplit": "eval"}),
        ("model.path=a=b/c", "model.path", "a=b/c"),
    ],
)
def test_a_set_value_is_read_as_its_key_wants_it(run_dir, text, key, value):
    sets = [text]
    if key == "model.path":
        sets += ["model.init=pretrained"]
    resolved = load_run(run_dir, sets, check_files=False)
    assert {row.key: row.value for row in describe(resolved)}[key] == value
    assert resolved.sources[key] == "--set"


@pytest.mark.parametrize("text", ["ppo.steps", "=3", "a b=1", "ppo..steps=1", "a\nb=1"])
def test_a_set_that_is_not_key_equals_value_is_refused(run_dir, text):
    with pytest.raises(ConfigError):
        load_run(run_dir, [text])


def test_infinity_and_nan_are_refused(run_dir):
    for value in ("inf", "nan", "1e999"):
        with pytest.raises(ConfigError, match="finite number"):
            load_run(run_dir, [f"ppo.kl_coefficient={value}"])


def test_changing_a_value_keeps_every_other_line(run_dir):
    set_values(run_dir, ["seed=8", "ppo.steps=5", "ppo.health.max_kl=2.5", "data.source=sandbox"])
    text = (run_dir / "run.toml").read_text()
    lost = [line for line in SOUND.splitlines() if line not in text.splitlines()]
    assert lost == ["seed = 7"]
    config = load_run(run_dir).config
    assert (config.seed, config.ppo.steps, config.ppo.health.max_kl) == (8, 5, 2.5)


def test_a_change_that_is_not_sound_is_not_written(run_dir):
    with pytest.raises(ConfigError):
        set_values(run_dir, ["seed=8", "ppo.stepz=5"])
    assert (run_dir / "run.toml").read_text() == SOUND


def test_alpacafarm_fidelity_changes_defaults_and_contradicts_what_was_asked_for(run_dir):
    resolved = load_run(run_dir, ["fidelity=alpacafarm"])
    ppo, views = resolved.config.ppo, resolved.config.refine_rm.multi_view
    assert (ppo.kl_estimator, ppo.whiten_rewards, ppo.mask_padding) == ("clamped", "keep-mean", False)
    assert (views.beta_ramp, views.beta_end, views.warmup_steps) == (0.0, 1.0, 0)
    assert (ppo.reward_scale, ppo.missing_eos, views.normalise) == ("none", "off", "none")
    assert resolved.sources["ppo.kl_estimator"] == "fidelity"
    with pytest.raises(ConfigError, match=r"kl_estimator = 'k3' contradicts fidelity"):
        load_run(run_dir, ["fidelity=alpacafarm", "ppo.kl_estimator=k3"])


def test_alpacafarm_fidelity_takes_the_sandbox_presets_own_ways_back(tmp_path):
    create_run(tmp_path / "run", "quickstart")
    ours, theirs = (load_run(tmp_path / "run", [f"fidelity={name}"]).config for name in ("ours", "alpacafarm"))
    assert (ours.ppo.reward_scale, ours.refine_rm.multi_view.normalise) == ("reference", "standardise")
    assert (theirs.ppo.reward_scale, theirs.refine_rm.multi_view.normalise) == ("none", "none")


@pytest.mark.parametrize("name", list_presets())
def test_a_run_made_from_a_preset_has_its_text_and_its_values(tmp_path, name):
    run_dir = tmp_path / "run"
    made = create_run(run_dir, name, ["seed=5", "methods=uml"])
    lines = (run_dir / "run.toml").read_text().splitlines()
    for line in preset_path(name).read_text().splitlines():
        if not line.startswith(("seed", "methods", "preset")):
            assert line in lines
    again = load_run(run_dir)
    assert again.config == made.config
    assert again.config.preset == name
    assert (again.config.seed, again.config.methods) == (5, ["uml"])
    assert again.sources["seed"] == "run.toml"
    assert again.sources["data.source"] == f"preset {name}", "what nobody changed is still the preset's"
    assert differences(again, load_preset(name)) == [
        (key, value, getattr(load_preset(name).config, key)) for key, value in (("seed", 5), ("methods", ["uml"]))
    ]


def test_keys_that_run_toml_leaves_out_are_the_presets(tmp_path):
    name = list_presets()[0]
    (tmp_path / "run.toml").write_text(f'preset = "{name}"\nseed = 1\n')
    config = load_run(tmp_path).config
    assert config == load_preset(name, ["seed=1"]).config
    assert config != RunConfig(preset=name, seed=1)


def test_an_unknown_preset_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "run.toml").write_text("# mine\npreset = 'alpacafrm'\n")
    with pytest.raises(ConfigError, match="there is no preset 'alpacafrm'") as caught:
        load_run(tmp_path)
    assert caught.value.where == f"{tmp_path}/run.toml, line 2"
    assert "'alpacafarm'" in caught.value.mend


def test_creating_a_run_touches_no_folder_that_holds_something(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    name = list_presets()[0]
    with pytest.raises(ConfigError, match="holds other files already"):
        create_run(tmp_path, name)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    create_run(tmp_path / "run", name)
    with pytest.raises(ConfigError, match="holds a run already"):
        create_run(tmp_path / "run", name)


def test_what_a_killed_creation_left_does_not_stand_in_the_way(tmp_path):
    (tmp_path / ".run.toml.77.tmp").write_text("# ha")
    create_run(tmp_path, list_presets()[0])
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_a_full_disk_leaves_nothing_and_a_changed_config_as_it_was(tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=64k"):
        create_run(disk / "run", "quickstart")
        old = (disk / "run" / "run.toml").read_text()
        (disk / "ballast").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        for work in (lambda: create_run(disk / "other", "quickstart"), lambda: set_values(disk / "run", ["seed=7"])):
            with pytest.raises(ResourceError) as caught:
                work()
            assert caught.value.where.startswith(f"{disk}/")
            assert " bytes" in caught.value.where
        assert (disk / "run" / "run.toml").read_text() == old
        assert [path.name for path in (disk / "run").iterdir()] == ["run.toml"]
        (disk / "ballast").unlink()
        create_run(disk / "other", "quickstart")


def test_a_run_toml_on_a_read_only_disk_is_said_in_words(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        create_run(disk / "run", "quickstart")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(ResourceError, match=r"cannot write run\.toml") as error:
            set_values(disk / "run", ["seed=7"])
    assert error.value.where == f"{disk}/run/run.toml: Read-only file system"


def test_a_folder_that_cannot_be_made_is_no_bug(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="cannot create the run directory") as caught:
        create_run(tmp_path / "file" / "run", list_presets()[0])
    assert caught.value.found == "Not a directory"


def test_a_run_is_new_where_nothing_stands(tmp_path):
    require_new(tmp_path)
    require_new(tmp_path / "not-there")
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(ConfigError, match="holds a run already"):
        require_new(tmp_path)


def test_missing_files_can_be_left_to_whoever_knows_what_is_read(run_dir):
    sets = ["evaluate.judge.kind=reward-model", "evaluate.judge.path=/not/there"]
    missing = load_run(run_dir, sets, refuse_missing=False).missing
    assert list(missing) == ["evaluate.judge.path"]
    assert missing["evaluate.judge.path"].where == "--set evaluate.judge.path"
    with pytest.raises(ConfigError, match="model folder that is not there"):
        load_run(run_dir, sets)
    with pytest.raises(ConfigError) as caught:
        load_run(run_dir, [*sets, "ppo.stepz=1"], refuse_missing=False)
    assert len(caught.value.problems) == 2


def test_what_a_key_is_can_be_asked_with_the_preset_named():
    name = list_presets()[0]
    with pytest.raises(ConfigError) as caught:
        load_preset(name, ["ppo.stepz=1"])
    assert caught.value.mend.endswith(f"All keys: rlp config show --preset {name}")


def test_a_table_set_to_a_value_is_wrong_where_it_was_set(run_dir):
    (run_dir / "run.toml").write_text(SOUND + "\n[sft]\nepochs = 2\n")
    with pytest.raises(ConfigError, match="'sft' is a table of keys") as caught:
        load_run(run_dir, ["sft=3"])
    assert caught.value.where == "--set sft"


def test_the_preset_of_a_run_is_fixed(tmp_path):
    name = list_presets()[0]
    create_run(tmp_path / "run", name)
    with pytest.raises(ConfigError, match="cannot be changed"):
        load_run(tmp_path / "run", ["preset=other"])


def test_run_toml_text_is_toml_with_the_preset_named():
    for name in list_presets():
        assert tomllib.loads(run_toml_text(name, ["ppo.health.max_kl=1"]))["preset"] == name


def test_batch_arithmetic_of_alpacafarm():
    """METHOD 5.1: 2 epochs over 512 answers in batches of 256 are 4 updates, 390 steps are 1560."""
    text = "\n".join(batch_arithmetic(RunConfig()))
    assert "390 steps x rollout batch of 512 = 199680 answers" in text
    assert (
        "2 epochs x 512/256 = 4 optimizer steps a rollout, 1560 in all; minibatch of 256 = 128 microbatches of 2"
        in text
    )


def test_further_test_sets_are_tables_by_name(run_dir):
    path = run_dir / "run.toml"
    path.write_text(
        'data.source = "files"\n[data.test_sets.llmbar]\npath = "a.jsonl"\nwhere = { subset = "natural" }\n'
    )
    sets = ["data.test_sets.vicuna.path=b.jsonl", "data.test_sets.vicuna.limit=5"]
    loaded = load_run(run_dir, sets, check_files=False)
    assert {name: file.path for name, file in loaded.config.data.test_sets.items()} == {
        "llmbar": "a.jsonl",
        "vicuna": "b.jsonl",
    }
    set_values(run_dir, sets, refuse_missing=False)
    assert load_run(run_dir, check_files=False).config == loaded.config
    for bad, what in (
        ("data.test_sets.llmbar.pth=x", "unknown key 'data.test_sets.llmbar.pth'"),
        ("data.test_sets.'../x'.path=x", "'../x' is no name"),
        ("data.test_sets.llmbar=x", "data.test_sets.llmbar"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_run(run_dir, [bad], check_files=False)
        assert what in str([caught.value, *problems_of(caught.value)])
    with pytest.raises(ConfigError) as caught:
        load_run(run_dir)
    assert {problem.what for problem in problems_of(caught.value)} == {
        f"data.test_sets.{name}.path names a file that is not there" for name in ("llmbar", "vicuna")
    }
