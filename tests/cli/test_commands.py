"""Each command does what it says, on a small run of the sandbox."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_process import RLP, SANDBOX, environment
from small_pipeline import forked

from rlp_cli.results import write_report
from rlp_engine.errors import ResourceError
from rlp_engine.report.newest import shows_newest
from rlp_engine.report.page import write_report as write_page
from rlp_engine.run.faults import arm
from rlp_engine.run.lock import RunLock

PAST_SFT = ["collect", "train-rm", "ppo", "round-1/sample", "round-1/embed", "round-1/spg/synthesize"]
PAST_SFT += ["round-1/spg/refine-rm", "round-1/spg/ppo", "evaluate"]


def snapshot(run_dir: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in sorted(run_dir.rglob("*")) if p.is_file()}


def test_init_makes_an_editable_run_and_keeps_the_comments(rlp, tmp_path):
    run_dir = tmp_path / "mine"
    made = json.loads(rlp("init", run_dir, "--preset", "alpacafarm", "--set", "seed=3", "--json").stdout)
    assert made == {"run_dir": str(run_dir), "preset": "alpacafarm", "run_toml": str(run_dir / "run.toml")}
    text = (run_dir / "run.toml").read_text()
    assert 'preset = "alpacafarm"' in text
    assert "# AlpacaFarm" in text or "[AF]" in text
    assert [path.name for path in run_dir.iterdir()] == ["run.toml"]
    rlp("init", run_dir, "--preset", "alpacafarm", code=3)


def test_a_dry_run_of_a_preset_makes_no_folder(rlp, tmp_path):
    paths = ["collect.annotator.path=owner/judge", "evaluate.judge.path=owner/judge"]
    words = ["run", "--preset", "alpacafarm", "--method", "uml", *(w for p in paths for w in ("--set", p))]
    plan = json.loads(rlp(*words, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["run_dir"] == "runs/alpacafarm"
    assert {row["will"] for row in plan["stages"]} == {"run"}
    assert "round-1/uml/ppo" in [row["stage"] for row in plan["stages"]]
    assert not [row["stage"] for row in plan["stages"] if "spg" in row["stage"]]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_ends_with_the_command_that_does_it(rlp, sft_run, tmp_path):
    words = ["run", "--preset", "quickstart", tmp_path / "my run", "--set", "ppo.steps=3", "--until", "sft"]
    last = rlp(*words, "--dry-run").stdout.splitlines()[-1]
    run_dir = f"'{tmp_path}/my run'"
    assert last.endswith(f"To do this: rlp run --preset quickstart {run_dir} --set ppo.steps=3 --until sft")
    last = rlp("sft", "--dry-run", sft_run, "--force").stdout.splitlines()[-1]
    assert last.endswith(f"To do this: rlp sft {sft_run} --force")


def test_what_is_refused_creates_no_run(rlp, tmp_path):
    words = ["run", "--preset", "alpacafarm", tmp_path / "new"]
    dry, real = rlp(*words, "--dry-run", code=3), rlp(*words, code=3)
    assert "stage collect needs collect.annotator.path" in real.stderr
    assert dry.stderr == real.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("mine")
    words = ["run", "--preset", "quickstart", tmp_path]
    dry, real = rlp(*words, "--dry-run", code=3), rlp(*words, code=3)
    assert dry.stderr == real.stderr
    assert "holds other files already" in dry.stderr


def test_only_files_that_the_chosen_stages_read_must_be_there(rlp, new_run):
    judge = ["--set", "evaluate.judge.kind=reward-model", "--set", "evaluate.judge.path=/not/there"]
    rlp("run", new_run, *judge, "--until", "train-rm", "--dry-run")
    done = rlp("run", new_run, *judge, "--dry-run", code=3)
    assert "error: evaluate.judge.path names a model folder that is not there" in done.stderr
    done = rlp("run", new_run, *judge, "--set", "ppo.stepz=1", "--until", "sft", "--dry-run", code=3)
    assert "error: evaluate.judge.path names" in done.stderr, "beside other problems all are told"
    (new_run / "run.toml").write_text(SANDBOX.replace('judge.kind = "gold"', 'judge.kind = "reward-model"'))
    done = rlp("config", "check", new_run, "--set", "evaluate.judge.path=/not/there", code=3)
    assert "evaluate.judge.path names a model folder" in done.stderr


def test_a_second_process_is_refused_and_changes_nothing(rlp, changeable_run):
    with RunLock(changeable_run / "lock"):
        before = snapshot(changeable_run)
        for more in ([], ["--dry-run"]):
            done = rlp("run", changeable_run, "--set", "ppo.steps=3", "--yes", *more, code=8)
            assert "error: another process works on this run" in done.stderr
        assert snapshot(changeable_run) == before
        status = rlp("status", changeable_run).stdout
        assert "working on it: pid" in status
        assert status.splitlines()[-1] == f"{len(PAST_SFT)} of {len(PAST_SFT) + 2} stages are still to do"


def test_the_page_is_written_again_when_it_shows_other_results_whatever_the_clocks_say(tmp_path):
    page, results = tmp_path / "report.html", tmp_path / "evaluate" / "stage.json"
    assert not shows_newest(page)
    write_page(tmp_path, None, page)
    assert shows_newest(page)
    results.parent.mkdir()
    results.write_text("{}")
    os.utime(results, (999, 999))
    assert not shows_newest(page)
    write_page(tmp_path, {}, page)
    os.utime(page, (1, 1))
    assert shows_newest(page)


def test_a_page_whose_writing_is_killed_or_meets_a_full_disk_is_written_by_the_next_one(changeable_run):
    page = changeable_run / "report.html"
    page.write_text("old")

    def killed_while_it_writes():
        arm("write:1")
        write_report(changeable_run)

    assert os.WTERMSIG(forked(killed_while_it_writes)) == signal.SIGKILL
    assert [path.name for path in changeable_run.glob("*.tmp")], "it was killed in the middle"
    arm("full:1")
    try:
        with pytest.raises(ResourceError) as error:
            write_report(changeable_run)
    finally:
        arm("")
    assert error.value.where.startswith(f"{page}: it needs ")
    assert page.read_text() == "old"
    write_report(changeable_run)
    assert page.read_text().rstrip().endswith("</html>")
    assert not list(changeable_run.glob("*.tmp"))


def test_dry_run_of_a_run_shows_the_plan_and_writes_nothing(rlp, sft_run):
    before = snapshot(sft_run)
    done = rlp("run", sft_run, "--dry-run")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["stage", "status", "will", "because"]
    assert [line.split()[:3] for line in lines[1:3]] == [["prepare", "done", "skip"], ["sft", "done", "skip"]]
    assert [line.split()[0] for line in lines[3:-1]] == PAST_SFT
    assert lines[-1] == f"Nothing was written. To do this: rlp run {sft_run}"
    assert snapshot(sft_run) == before


def test_the_same_command_again_says_there_is_nothing_to_do(rlp, sft_run):
    done = rlp("run", sft_run, "--until", "sft")
    assert "nothing to do" in done.stdout
    assert "report: " in done.stdout
    assert rlp("sft", sft_run, "--quiet").stdout == f"report: {sft_run}/report.html\n"


def test_status_in_words_and_as_an_object(rlp, sft_run):
    done = rlp("status", sft_run)
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()[1:-1]}
    assert rows["prepare"] == rows["sft"] == "done"
    assert {rows[name] for name in PAST_SFT} == {"missing"}
    answer = json.loads(rlp("status", sft_run, "--json").stdout)
    assert not answer["done"]
    assert answer["running"] is None
    stage = next(row for row in answer["stages"] if row["stage"] == "sft")
    assert (stage["status"], stage["will"], stage["summary"]["demonstrations"] > 0) == ("done", "skip", True)


def test_status_check_is_for_scripts(rlp, sft_run):
    done = rlp("status", sft_run, "--check", "--json", code=10)
    assert json.loads(done.stdout)["done"] is False
    assert f"{len(PAST_SFT)} stages are not done" in done.stderr
    assert "error:" not in done.stderr


def test_status_verify_finds_one_changed_byte(rlp, changeable_run):
    assert "outputs have the content" in rlp("status", changeable_run, "--verify").stdout
    file = next((changeable_run / "sft" / "model").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    rlp("status", changeable_run)
    done = rlp("status", changeable_run, "--verify", code=9)
    assert file.name in done.stderr
    assert "--force sft" in done.stderr
    export = ["export", changeable_run, "--model", "policy", "--to", changeable_run / "copy"]
    assert file.name in rlp(*export, code=9).stderr
    file.write_bytes(data[:-1])
    assert "would stop: an output of stage sft is damaged" in rlp("status", changeable_run).stdout


def test_metrics_are_shown_counted_and_exported(rlp, sft_run):
    answer = json.loads(rlp("metrics", sft_run, "sft", "--last", "3", "--json").stdout)
    assert [row["step"] for row in answer["metrics"]] == [answer["steps"] - 2, answer["steps"] - 1, answer["steps"]]
    rows = list(csv.DictReader(io.StringIO(rlp("metrics", sft_run, "sft", "--csv").stdout)))
    assert len(rows) == answer["steps"]
    assert float(rows[-1]["loss"]) == answer["metrics"][-1]["loss"]
    table = rlp("metrics", sft_run, "sft", "--last", "2").stdout.splitlines()
    assert table[0].split()[:2] == ["step", "loss"]
    assert len(table) == 3
    none = rlp("metrics", sft_run, "collect", code=3).stderr
    assert "has logged no metrics" in none
    assert "mend:  stages that have: sft\n" in none
    assert "--csv does not go with" in rlp("metrics", sft_run, "sft", "--csv", "--json", code=2).stderr
    assert "did you mean 'sft'" in rlp("metrics", sft_run, "sfft", code=3).stderr


def test_metrics_samples_show_the_newest_answers_without_their_escapes(rlp, changeable_run):
    folder = changeable_run / "ppo.partial" / "samples"
    folder.mkdir(parents=True)
    (folder.parent / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    row = {"instruction": "Name a fruit.", "input": "", "response": "An \x1b[31mapple\x1b[0m [b]now[/b]", "score": 1.5}
    (folder / "step_000001.jsonl").write_text(json.dumps(row | {"response": "old"}) + "\n")
    (folder / "step_000010.jsonl").write_text(json.dumps(row) + "\n")
    done = rlp("metrics", changeable_run, "ppo", "--samples")
    assert "Name a fruit." in done.stdout
    assert "    An apple [b]now[/b]\n" in done.stdout
    assert "score 1.5" in done.stdout
    assert "old" not in done.stdout


def test_config_show_has_every_key_and_the_batch_arithmetic(rlp, sft_run):
    done = rlp("config", "show", sft_run, "--set", "ppo.steps=7")
    assert "seed = 1   (run.toml)\n" in done.stdout
    assert "ppo.steps = 7   (--set)\n    PPO steps, each with a fresh rollout" in done.stdout
    assert "rounds = 1   (default)\n" in done.stdout
    assert "sft: 20 passes; minibatch of 8 demonstrations = 1 microbatch of 8" in done.stdout
    answer = json.loads(rlp("config", "show", sft_run, "--key", "kl_", "--json").stdout)
    assert set(answer["keys"]) == {
        f"ppo.kl_{name}" for name in ("coefficient", "estimator", "controller", "target", "gain")
    } | {"curve.kl_coefficients"}
    assert answer["keys"]["ppo.kl_target"]["value"] == 6.0


def test_config_diff_names_the_keys_that_differ(rlp, new_run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.toml").write_text(SANDBOX.replace("seed = 1", "seed = 2"))
    assert json.loads(rlp("config", "diff", new_run, other, "--json").stdout) == {"differences": {"seed": [1, 2]}}
    assert "no key differs" in rlp("config", "diff", new_run, new_run).stdout


def test_presets_are_listed_with_what_they_are_for(rlp):
    names = [row["name"] for row in json.loads(rlp("presets", "--json").stdout)["presets"]]
    assert "alpacafarm" in names
    assert "LLaMA-7B" in rlp("presets").stdout


def test_a_change_that_makes_finished_work_stale_wants_a_word(rlp, changeable_run):
    before = snapshot(changeable_run)
    done = rlp("sft", changeable_run, "--set", "sft.epochs=1", code=3)
    assert "sft.epochs: 20 -> 1" in done.stdout
    assert "makes stale: sft" in done.stdout
    assert "--yes" in done.stderr
    assert snapshot(changeable_run) == before
    rlp("sft", changeable_run, "--set", "log.samples=2", "--dry-run")
    rlp("sft", changeable_run, "--set", "log.samples=2")
    toml = (changeable_run / "run.toml").read_text()
    assert "samples = 2" in toml
    assert 'methods = ["spg"]      # one branch' in toml


def test_clean_asks_and_deletes_only_what_was_replaced(rlp, changeable_run):
    old = changeable_run / "superseded" / "sft-20261121T000000Z"
    old.mkdir(parents=True)
    (old / "big.bin").write_bytes(b"x" * 2048)
    before = snapshot(changeable_run)
    done = rlp("clean", changeable_run, code=3)
    assert "superseded/sft-20261121T000000Z" in done.stdout
    assert "2.0 KiB" in done.stdout
    assert "--yes" in done.stderr
    rlp("clean", changeable_run, "--dry-run")
    assert snapshot(changeable_run) == before
    answer = json.loads(rlp("clean", changeable_run, "--yes", "--json").stdout)
    assert (answer["deleted"], answer["bytes"]) == (True, 2048)
    assert not old.exists()
    assert (changeable_run / "sft" / "stage.json").exists()
    assert rlp("clean", changeable_run, "--yes").stdout == "nothing to delete\n"


def test_export_gives_a_folder_of_its_own_in_the_wanted_dtype(rlp, sft_run, tmp_path):
    target = tmp_path / "exported"
    made = json.loads(
        rlp("export", sft_run, "--model", "policy", "--to", target, "--dtype", "bfloat16", "--json").stdout
    )
    assert (made["stage"], made["dtype"]) == ("sft", "bfloat16")
    weights = (target / "model.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"BF16"}
    assert {"config.json", "tokenizer.json"} <= {path.name for path in target.iterdir()}
    assert 0 < made["largest_difference"] < 0.1, "a cast rounds, and no more"
    assert "is there already" in rlp("export", sft_run, "--model", "policy", "--to", target, code=3).stderr
    assert "no reward is finished" in rlp("export", sft_run, "--model", "reward", "--to", tmp_path / "r", code=3).stderr


def test_report_writes_the_page(rlp, changeable_run):
    (changeable_run / "report.html").unlink(missing_ok=True)
    done = rlp("report", changeable_run)
    assert done.stdout == f"{changeable_run}/report.html\n"
    assert (changeable_run / "report.html").stat().st_size > 1000


def test_ctrl_c_ends_with_130_and_the_words_to_continue(rlp, changeable_run):
    process = subprocess.Popen(
        [RLP, "sft", changeable_run, "--force", "--set", "sft.epochs=2000", "--yes"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    metrics = changeable_run / "sft.partial" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped by Ctrl-C" in errors
    assert "error:" not in errors
    assert "Traceback" not in errors
    assert json.loads(rlp("status", changeable_run, "--json").stdout)["stages"][1]["status"] == "interrupted"
