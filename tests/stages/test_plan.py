"""What is planned, and the words for it. The runs before are real ones, of the stages in small_pipeline.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
from small_pipeline import config, forked, pipeline

from rlp_engine.errors import ConfigError, CorruptArtifactError
from rlp_engine.run.lock import RunLock
from rlp_engine.stages.plan import plan
from rlp_engine.stages.runner import execute
from rlp_engine.stages.selection import Selection, method_of, round_of
from rlp_engine.stages.spec import ConfigView, StageInput, StageSpec, check_pipeline, is_remote

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def done(run_dir, stages):
    """A run with every stage done."""
    execute(run_dir, stages, config())
    return run_dir


def table(run_dir, stages, new=None, selection=None):
    """name -> (status, will, because)."""
    planned = plan(run_dir, stages, new or config(), selection)
    return {stage.spec.name: (stage.status, stage.will, stage.because) for stage in planned}


def will(run_dir, stages, new=None, **selection):
    return {name: row[1] for name, row in table(run_dir, stages, new, Selection(**selection)).items()}


def running(rows):
    return [name for name, action in rows.items() if action != "skip"]


def snapshot(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_a_new_run_is_missing_everything(run_dir, stages):
    assert set(table(run_dir, stages).values()) == {("missing", "run", "not done yet")}


def test_a_finished_run_has_nothing_to_do_and_planning_writes_nothing(done, stages):
    before = snapshot(done)
    assert set(table(done, stages).values()) == {("done", "skip", "")}
    assert snapshot(done) == before


def test_a_changed_key_is_named_and_so_is_what_it_changes_downstream(done, stages):
    rows = table(done, stages, config(synthesize={"min_confidence": 0.6}))
    assert rows["sft"] == ("done", "skip", "")
    assert rows["round-1/spg/synthesize"] == ("stale", "run", "synthesize.min_confidence: 0.5 -> 0.6")
    assert rows["round-1/spg/ppo"] == ("stale", "run", "its input round-1/spg/synthesize/pairs.jsonl will change")
    assert rows["round-1/uml/ppo"] == ("done", "skip", "")
    assert rows["evaluate"] == ("stale", "run", "its input round-1/spg/ppo/model will change")


def test_safe_keys_and_sections_of_others_change_nothing(done, stages):
    assert running(will(done, stages, config(log={"every_steps": 9}, collect={"temperature": 0.5}))) == []


def test_changed_data_is_seen_by_content_and_not_by_time(done, stages, data):
    os.utime(data, (1, 1))
    assert running(will(done, stages)) == []
    data.write_text("b a d")
    assert table(done, stages)["prepare"] == ("stale", "run", f"its input {data} changed")


def test_data_that_is_gone_does_not_undo_what_was_made_of_it(done, stages, data):
    data.unlink()
    assert running(will(done, stages)) == []


def test_data_that_is_gone_is_refused_where_it_is_needed(done, stages, data):
    data.unlink()
    row = plan(done, stages, config(seed=1))[0]
    assert (row.status, row.will) == ("stale", "refuse")
    assert isinstance(row.refusal, ConfigError)
    assert str(data) in row.refusal.what


def test_a_copied_run_is_as_done_as_the_original(done, stages, tmp_path):
    shutil.copytree(done, tmp_path / "copy")
    assert running(will(tmp_path / "copy", stages)) == []


def test_new_code_of_a_stage_makes_it_stale(done, stages):
    stages[1] = replace(stages[1], version=2)
    assert table(done, stages)["sft"][2] == "the code of this stage changed (version 1 -> 2)"


def test_a_new_input_is_named(done, stages):
    model = StageInput("model", stage="sft", path="model")
    stages[5] = replace(stages[5], inputs=(*stages[5].inputs[1:], model))
    assert table(done, stages)["evaluate"][2] == (
        "it reads sft/model, which it did not read before; it no longer reads round-1/spg/ppo/model"
    )


def test_many_reasons_are_cut_in_the_line_and_whole_in_the_list(done, stages):
    new = config(sft={"epochs": 1, "minibatch": 8, "max_length": 99, "microbatch": 1}, seed=7)
    planned = plan(done, stages, new)[1]
    assert planned.because.endswith("; and 2 more")
    assert "sft.minibatch: " in "".join(planned.reasons)
    assert planned.reasons[-1] == "its input prepare/rows.txt will change"


def test_a_deleted_stage_is_made_again_and_later_ones_will_most_likely_stand(done, stages):
    shutil.rmtree(done / "sft")
    rows = table(done, stages)
    assert rows["sft"] == ("missing", "run", "not done yet")
    assert rows["round-1/uml/ppo"] == ("done", "run", "its input sft/model will be made again")
    assert rows["evaluate"][:2] == ("done", "run")


def test_force_runs_what_is_done(done, stages):
    rows = table(done, stages, selection=Selection(force="sft"))
    assert rows["sft"] == ("done", "run", "--force")
    assert rows["prepare"] == ("done", "skip", "")


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_output_is_refused_with_the_file_and_the_stage_to_redo(done, stages, damage):
    file = done / "sft" / "model" / "weights.bin"
    file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:-3])
    row = plan(done, stages, config())[1]
    assert (row.status, row.will) == ("stale", "refuse")
    assert row.refusal.exit_code == 9
    assert "model/weights.bin is" in row.refusal.what
    assert row.refusal.mend.endswith("--force sft")
    assert will(done, stages, force="sft")["sft"] == "run"


def test_a_damaged_output_is_refused_as_an_input_of_the_one_stage_asked_for(done, stages):
    (done / "sft" / "model" / "weights.bin").write_bytes(b"")
    new = config(synthesize={"min_confidence": 0.6})
    row = plan(done, stages, new, Selection(only="synthesize"))[2]
    assert isinstance(row.refusal, CorruptArtifactError)
    (done / "prepare" / "rows.txt").write_bytes(b"")  # not read by ppo, so no matter to it
    assert will(done, stages, config(ppo={"steps": 3}), only="round-1/uml/ppo")["prepare"] == "skip"


def test_an_illegible_stage_json_is_refused_and_never_guessed_at(done, stages):
    (done / "sft" / "stage.json").write_text('{"schema": 1, "na')
    rows = plan(done, stages, config())
    assert (rows[1].will, rows[1].refusal.exit_code) == ("refuse", 9)
    assert rows[1].refusal.mend.endswith("--force sft")
    assert will(done, stages, force="sft")["sft"] == "run"


def interrupted(run_dir, stages, new=None):
    """Leave sft.partial as a process that was killed in the middle of it."""

    def work():
        execute(run_dir, stages, new or config(), reporter=_KillAtStep(3))

    assert os.WTERMSIG(forked(work)) == signal.SIGKILL


class _KillAtStep:
    def __init__(self, step):
        self._step = step

    def step(self, stage, step, total, metrics, seconds):
        if step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name):
        return lambda *args: None


def test_a_killed_stage_is_interrupted_and_continues(run_dir, stages):
    interrupted(run_dir, stages)
    status, action, because = table(run_dir, stages)["sft"]
    assert (status, action) == ("interrupted", "continue")
    assert because.startswith("its process ended without a word (pid ")


def test_a_stage_that_lacks_only_its_last_rename_is_finished_and_nothing_after_it_changes(done, stages):
    (done / "sft").rename(done / "sft.partial")
    rows = table(done, stages)
    assert rows["sft"] == ("interrupted", "continue", "only its last rename is missing")
    assert running({name: row[1] for name, row in rows.items()}) == ["sft"]
    assert [row.did for row in execute(done, stages, config())] == ["skip"] * len(stages)
    assert (done / "sft" / "stage.json").exists()


def test_a_killed_stage_starts_again_when_what_it_does_has_changed(run_dir, stages):
    interrupted(run_dir, stages)
    rows = table(run_dir, stages, config(sft={"epochs": 77}))
    assert rows["sft"][:2] == ("interrupted", "start again")
    assert rows["sft"][2].endswith("-> 77; its checkpoints are kept aside")


def test_a_killed_stage_whose_input_will_change_says_so(run_dir, stages, data):
    interrupted(run_dir, stages)
    data.write_text("x y")
    assert table(run_dir, stages)["sft"][1:] == (
        "start again",
        "its input prepare/rows.txt will change; its checkpoints are kept aside",
    )


def test_going_back_to_the_old_config_finds_the_old_result(done, stages):
    new = config(sft={"epochs": 77})
    interrupted(done, stages, new)
    assert table(done, stages)["sft"] == ("done", "skip", "")
    assert table(done, stages, new)["sft"][:2] == ("interrupted", "continue")


def test_a_stage_that_another_process_works_on_is_running(run_dir, stages):
    interrupted(run_dir, stages)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with RunLock(run_dir / "lock"):
            attempt = run_dir / "sft.partial" / "attempt.json"
            attempt.write_text(json.dumps(json.loads(attempt.read_text()) | {"pid": os.getpid()}))
            os.write(writer, b"x")
            signal.pause()
    try:
        os.read(reader, 1)
        assert table(run_dir, stages)["sft"][:2] == ("running", "continue")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert table(run_dir, stages)["sft"][0] == "interrupted"


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ({"only": "sft"}, ["sft"]),
        ({"only": "synthesize"}, ["round-1/spg/synthesize"]),
        ({"only": ["ppo"]}, ["round-1/spg/ppo", "round-1/uml/ppo"]),
        ({"only": "round-1/spg"}, ["round-1/spg/synthesize", "round-1/spg/ppo"]),
        ({"only": "*/spg/*"}, ["round-1/spg/synthesize", "round-1/spg/ppo"]),
        ({"until": "round-1/uml/ppo"}, ["prepare", "sft", "round-1/uml/ppo"]),
        ({"from_": "round-1/spg/synthesize"}, ["round-1/spg/synthesize", "round-1/spg/ppo", "evaluate"]),
        ({"from_": "sft", "until": "round-1/uml/ppo"}, ["sft", "round-1/uml/ppo"]),
        ({"methods": ["uml"]}, ["prepare", "sft", "round-1/uml/ppo", "evaluate"]),
        ({"kinds": ["ppo"], "methods": ["spg"]}, ["round-1/spg/ppo"]),
        ({"kinds": "sft"}, ["sft"]),
    ],
)
def test_selections(done, stages, selection, names):
    every_stage = [spec.name for spec in stages]
    assert running(will(done, stages, **selection, force="*")) == names
    assert set(names) <= set(every_stage)


@pytest.mark.parametrize(
    ("selection", "what"),
    [
        ({"only": "sfft"}, "no stage 'sfft'"),
        ({"only": "sft", "force": "evaluate"}, "no stage 'evaluate' among those selected"),
        ({"only": "sft", "methods": ["nonsense"]}, "no method 'nonsense'"),
        ({"kinds": ["collect"]}, "no such stage"),
        ({"only": "sft", "until": "prepare"}, "no stage fits"),
    ],
)
def test_a_selection_that_fits_nothing_is_an_error(run_dir, stages, selection, what):
    with pytest.raises(ConfigError, match=what):
        plan(run_dir, stages, config(), Selection(**selection))


def test_a_mistyped_stage_gets_the_nearest_name(run_dir, stages):
    with pytest.raises(ConfigError) as error:
        plan(run_dir, stages, config(), Selection(only="evalute"))
    assert error.value.mend == "did you mean 'evaluate'?"


def test_one_stage_without_its_inputs_is_refused_with_the_command_that_makes_them(run_dir, stages):
    row = plan(run_dir, stages, config(), Selection(only="round-1/uml/ppo"))[4]
    assert row.will == "refuse"
    assert row.refusal.exit_code == 3
    assert row.refusal.mend == f"make it first: rlp run {run_dir} --until sft"


def test_a_stage_that_needs_another_method_waits_for_it(run_dir, stages):
    rows = table(run_dir, stages, selection=Selection(methods=["uml"]))
    assert rows["evaluate"] == ("missing", "skip", "waits for round-1/spg/ppo, which this selection leaves out")
    assert rows["round-1/spg/ppo"] == ("not needed", "skip", "not selected")


def test_using_what_a_stale_stage_made_is_said(done, stages):
    new = config(sft={"epochs": 77}, ppo={"steps": 7})
    row = plan(done, stages, new, Selection(only="round-1/uml/ppo"))[4]
    assert row.will == "run"
    assert row.notes[0].startswith("sft is stale (sft.epochs: ")


def test_work_left_by_a_process_whose_number_we_have_now_is_not_running(run_dir, stages):
    interrupted(run_dir, stages)
    attempt = run_dir / "sft.partial" / "attempt.json"
    attempt.write_text(json.dumps(json.loads(attempt.read_text()) | {"pid": os.getpid()}))
    with RunLock(run_dir / "lock"):
        assert table(run_dir, stages)["sft"][0] == "interrupted"


def test_a_method_brings_what_it_uses_of_another_one(run_dir, stages):
    pairs = StageInput("pairs", stage="round-1/spg/synthesize", path="pairs.jsonl")
    stages[4] = replace(stages[4], inputs=(*stages[4].inputs, pairs))
    rows = will(run_dir, stages, methods=["uml"])
    assert running(rows) == ["prepare", "sft", "round-1/spg/synthesize", "round-1/uml/ppo"]


def two_rounds(data):
    """ppo before refinement, and after it in two branches."""
    before = pipeline(data)
    first = replace(before[4], name="ppo")
    branches = [
        replace(before[4], name=f"round-1/{m}/ppo", inputs=(StageInput("model", stage="ppo", path="model"),))
        for m in ("spg", "uml")
    ]
    return [*before[:2], first, *branches]


def test_a_kind_means_the_first_round_in_which_it_is_due(run_dir, data):
    stages = two_rounds(data)
    execute(run_dir, stages, config(), Selection(until="sft"))
    assert running(will(run_dir, stages, kinds=["ppo"])) == ["ppo"]
    execute(run_dir, stages, config(), Selection(kinds=["ppo"]))
    assert running(will(run_dir, stages, kinds=["ppo"])) == ["round-1/spg/ppo", "round-1/uml/ppo"]
    execute(run_dir, stages, config(), Selection(kinds=["ppo"]))
    assert running(will(run_dir, stages, kinds=["ppo"])) == []
    assert running(will(run_dir, stages, kinds=["ppo"], rounds=[1], force="ppo")) == [
        "round-1/spg/ppo",
        "round-1/uml/ppo",
    ]


def test_rounds_and_methods_are_read_off_names():
    assert [round_of(name) for name in ("ppo", "round-1/embed", "round-12/uml/ppo")] == [0, 1, 12]
    assert [method_of(name) for name in ("ppo", "round-1/embed", "round-2/uml+spg/ppo")] == ["", "", "uml+spg"]


def test_a_stage_sees_only_the_config_that_it_declares():
    view = ConfigView(config(), ("seed", "ppo", "data.source"))
    assert (view.seed, view.ppo.gamma, view.data.source) == (42, 1.0, "files")
    for read in (lambda: view.sft, lambda: view.data.template):
        with pytest.raises(AssertionError, match="does not declare"):
            read()


def test_hub_ids_are_told_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("hub:o/n", "hf://datasets/o/n/a.jsonl", "owner/name", "owner/name@v1.0"):
        assert is_remote(path), path
    for path in ("data/rows.jsonl", "model", "/abs/model", "./a/b", "a/b/c"):
        assert not is_remote(path), path
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not is_remote("owner/name")


def test_a_hub_model_is_told_by_its_name_and_revision(run_dir, stages):
    for revision in ("main", "v2"):
        stages[0] = replace(stages[0], inputs=(StageInput("rows", path=f"owner/name@{revision}"),))
        assert plan(run_dir, stages, config())[0].work.inputs["rows"].digest == f"hub:owner/name@{revision}"


@pytest.mark.parametrize(
    "names",
    [
        ["a", "a"],
        ["../a"],
        ["/a"],
        ["a", "a/b"],
        ["superseded"],
        ["logs/a"],
        ["A"],
        ["a.partial"],
        ["0.partial"],
        ["a/.."],
        ["kl0."],
    ],
)
def test_names_that_would_collide_or_leave_the_run_are_refused(names):
    specs = [StageSpec(name, "k", 1, (), (), "m:f") for name in names]
    with pytest.raises(AssertionError):
        check_pipeline(specs)
