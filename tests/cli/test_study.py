"""`rlp study` on a tiny sandbox: stopped, resumed, extended, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from cli_process import RLP, environment, run_rlp
from tiny_run import TINY, outputs

from rlp_engine.run.clean import removable

SMALL = TINY | {
    "sft.epochs": 1,
    "ppo.steps": 2,
    "evaluate.best_of_n": 0,
    "sandbox.facts": 8,
    "sandbox.preference_facts": 4,
}
WORDS = ["--preset", "quickstart", "--seeds", "2", "--methods", "spg", "--sweep", "ppo.kl_coefficient=0.05"]
SETS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]
SWEEP = ["--sweep", "synthesize.min_confidence=0.2,0.4"]


def snapshot(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that Ctrl-C stopped in the middle and that was taken up again: (folder, what the first one said)."""
    folder = tmp_path_factory.mktemp("study") / "s"
    process = subprocess.Popen(
        [RLP, "study", str(folder), *WORDS, *SETS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    while not (folder / "seed-42" / "sft" / "stage.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert not list(folder.rglob("lock")), "nobody works on after us"
    run_rlp("study", folder, "--jobs", "2")
    return folder, said


def test_ctrl_c_stops_the_runs_and_says_how_to_go_on(study):
    folder, said = study
    assert said.splitlines()[-1] == f"  mend:  to continue: rlp study {folder}"
    assert "2 of 2 runs are not done" in said
    record = json.loads((folder / "seed-42" / "sft" / "stage.json").read_text())
    assert record["attempts"] == 1, "what was done before is not done again"


def test_resumed_it_is_done_and_every_run_is_an_ordinary_one(study, rlp):
    folder, _ = study
    for seed in (42, 43):
        rlp("status", folder / f"seed-{seed}", "--check")
        assert removable(folder / f"seed-{seed}") == []
    assert json.loads(rlp("study", folder, "--dry-run", "--json").stdout)["runs"] == [
        {"run": f"seed-{seed}", "to_run": [], "to_adopt": [], "done": True} for seed in (42, 43)
    ]
    written = json.loads((folder / "study.json").read_text())
    assert written["runs"] == {"done": ["seed-42", "seed-43"], "left": {}}
    [group] = written["results"]["groups"]
    assert group["seeds"] == [42, 43]
    assert set(group["numbers"]["policies"]) == {*("sft", "ppo", "ppo-kl0.05", "round-1/spg", "round-1/spg-kl0.05")}
    worlds = [(folder / f"seed-{seed}" / "prepare" / "test.jsonl").read_text() for seed in (42, 43)]
    assert worlds[0] != worlds[1]
    page = (folder / "study.md").read_text()
    assert "### The curves" in page


def test_a_swept_value_takes_the_stages_that_it_does_not_touch_and_done_runs_stay(study, rlp):
    folder, _ = study
    before = snapshot(folder / "seed-42")
    plan = json.loads(rlp("study", folder, *SWEEP, "--dry-run", "--json").stdout)
    assert not (folder / "seed-42--synthesize.min_confidence=0.4").exists()
    done = rlp("study", folder, *SWEEP, "--jobs", "2")
    assert "added to the study: synthesize.min_confidence=0.2, synthesize.min_confidence=0.4" in done.stdout
    assert snapshot(folder / "seed-42") == before
    other = folder / "seed-42--synthesize.min_confidence=0.4"
    records = {name: json.loads((other / name / "stage.json").read_text()) for name in outputs(other)}
    adopted = {name for name, record in records.items() if record["adopted_from"]}
    [planned] = [row for row in plan["runs"] if row["run"] == other.name]
    assert adopted == set(planned["to_adopt"])
    assert {"sft", "ppo", "ppo-kl0.05", "round-1/embed"} <= adopted
    assert not {"round-1/spg/synthesize", "evaluate"} & adopted
    assert os.path.samefile(folder / "seed-42" / "prepare" / "test.jsonl", other / "prepare" / "test.jsonl")
    rlp("status", other, "--check", "--verify")
    groups = json.loads((folder / "study.json").read_text())["results"]["groups"]
    assert [group["variant"] for group in groups] == ["", "synthesize.min_confidence=0.4"]


def test_a_failing_run_loses_no_other_and_gives_its_exit_code(study, rlp):
    folder, _ = study
    results = folder / "seed-43" / "evaluate" / "results.json"
    good = results.read_bytes()
    results.write_bytes(good[:-5])  # shorter than stage.json says: the run refuses to go on
    try:
        done = rlp("study", folder, code=9)
        assert "seed-43" in done.stderr
        assert f"rlp study {folder}" in done.stderr
    finally:
        results.write_bytes(good)


def test_what_contradicts_the_study_changes_nothing(study, rlp):
    folder, _ = study
    before = snapshot(folder)
    assert "does not set ppo.epochs" in rlp("study", folder, "--set", "ppo.epochs=3", code=3).stderr
    assert "is of preset 'quickstart'" in rlp("study", folder, "--preset", "alpacafarm", code=3).stderr
    assert "did you mean 'spg'" in rlp("study", folder, "--methods", "spgg", code=3).stderr
    assert snapshot(folder) == before


def test_a_dry_run_of_a_new_study_writes_nothing(rlp, tmp_path):
    folder = tmp_path / "new"
    said = rlp("study", folder, *WORDS, *SWEEP, "--dry-run").stdout
    assert "seed-43--synthesize.min_confidence=0.2" in said
    assert "Nothing was written. To do this: rlp study" in said
    assert not folder.exists()


def test_what_is_no_study_is_said(rlp, tmp_path):
    assert "it holds no study.toml" in rlp("study", tmp_path / "none", code=3).stderr
    (tmp_path / "mine.txt").write_text("mine")
    assert "holds other files already" in rlp("study", tmp_path, *WORDS, code=3).stderr
    assert "give a study's folder" in rlp("study", code=2).stderr
