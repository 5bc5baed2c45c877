"""What a user sees when something is wrong, word for word, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cli_process import SANDBOX, environment

BOOM = """
from rlp_cli import app
def explode(output):
    '''Explode.'''
    password = "hunter2-in-a-local"
    key = __import__("os").environ["MY_API_KEY"]
    raise RuntimeError("upload with hf_abcdefghijklmnopqrstuv and " + key + " failed")
app._add(app.app, "explode", explode)
app.main({words!r})
"""


def test_an_unknown_key_is_named_with_line_and_nearest(rlp, new_run):
    path = new_run / "run.toml"
    path.write_text(path.read_text() + "[ppo]\nkl_coeff = 0.1\n")
    line = path.read_text().splitlines().index("kl_coeff = 0.1") + 1
    done = rlp("run", new_run, code=3)
    assert done.stdout == ""
    assert done.stderr == (
        "error: unknown key 'ppo.kl_coeff'\n"
        f"  where: {path}, line {line}\n"
        f"  mend:  did you mean 'ppo.kl_coefficient'?  All keys: rlp config show {new_run}\n"
    )


def test_a_dry_run_gives_the_verdict_of_the_real_run(rlp, new_run):
    for sets in (["ppo.rollout_batch=100"], ["collect.annotator.kind=reward-model"]):
        words = ["run", new_run, "--yes", *(word for text in sets for word in ("--set", text))]
        dry, real = rlp(*words, "--dry-run", code=3), rlp(*words, code=3)
        assert dry.stderr == real.stderr != ""
    assert [path.name for path in new_run.iterdir()] == ["run.toml"]
    assert (new_run / "run.toml").read_text() == SANDBOX, "what is refused is not written"


def test_several_problems_are_one_json_object(rlp, new_run):
    done = rlp("config", "check", new_run, "--set", "ppo.stepz=1", "--set", "seed=x", "--json", code=3)
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "ConfigError"
    assert error["exit_code"] == 3
    assert [problem["what"] for problem in error["problems"]] == [
        "seed = 'x': want a whole number",
        "unknown key 'ppo.stepz'",
    ]
    assert error["problems"][1]["mend"].startswith("did you mean 'ppo.steps'?")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["statu"], "'status'"),
        (["run", "--dryrun", "x"], "--dry-run"),
        (["run"], "give a run directory, or --preset NAME"),
        (["data", "check", "x.jsonl", "--as", "prefs"], "preferences"),
        (["export", "x", "--to", "y"], "--model"),
        (["config"], "Missing command"),
    ],
)
def test_a_wrong_command_line_ends_with_2(rlp, words, said):
    done = rlp(*words, code=2)
    assert said in done.stderr
    assert "--help" in done.stderr
    assert done.stdout == ""


def test_a_wrong_command_line_is_an_object_too(rlp):
    error = json.loads(rlp("statu", "--json", code=2).stdout)["error"]
    assert (error["kind"], error["exit_code"], error["mend"]) == ("UsageError", 2, "rlp --help")


@pytest.mark.parametrize("words", [["status"], ["init", "--preset", "quickstart"]])
def test_a_name_that_no_file_can_have_is_an_error(rlp, words):
    assert rlp(*words, "x" * 300, code=3).stderr.startswith("error: a path is too long for the file system\n")


def test_a_folder_that_is_no_run_says_how_to_make_one(rlp, tmp_path):
    for command in ("run", "status", "ppo", "report", "clean"):
        done = rlp(command, tmp_path, code=3)
        assert done.stderr.splitlines()[0] == f"error: {tmp_path} is not a run directory: it holds no run.toml"
        assert f"rlp run --preset NAME {tmp_path}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_stage_whose_input_is_missing_names_the_command_that_makes_it(rlp, new_run):
    done = rlp("train-rm", new_run, code=3)
    assert "error: train-rm needs " in done.stderr
    assert f"rlp run {new_run} --until " in done.stderr


def test_places_in_a_data_file_name_the_file_once(rlp, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "p", "chosen": "a", "reject": "b"}\n' * 3)
    done = rlp("data", "check", file, "--as", "preferences", code=4)
    assert f"  where: {file}:1 (also line 2, line 3)\n" in done.stderr
    assert "--field NAME=ITS_NAME" in done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[1:]] == ["  line 1", "  line 2", "  line 3"]


def test_a_stage_that_is_not_there_is_told_in_the_words_of_the_command_line(rlp, new_run):
    done = rlp("ppo", new_run, "--round", "7", code=3)
    assert "  found: stages of kind ppo, --round 7\n" in done.stderr
    assert "did you mean 'round-1/spg'?" in rlp("run", new_run, "--until", "spg", code=3).stderr


def test_ctrl_c_outside_of_a_stage_is_no_bug():
    code = BOOM.replace('RuntimeError("upload', 'KeyboardInterrupt("upload').format(words=["explode"])
    environ = environment(MY_API_KEY="s3cret-of-mine")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False)
    assert (done.returncode, done.stderr) == (130, "warning: stopped by Ctrl-C\n")


IN_A_DESTRUCTOR = """
import signal, sys, time
from rlp_cli.app import hear_ctrl_c_again
sys.unraisablehook = hear_ctrl_c_again
class Late:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    Late()
    time.sleep(10)
except KeyboardInterrupt:
    print("heard")
"""


def test_ctrl_c_in_a_destructor_is_heard_and_no_traceback():
    done = subprocess.run([sys.executable, "-c", IN_A_DESTRUCTOR], capture_output=True, text=True, env=environment())
    assert (done.stdout, done.stderr) == ("heard\n", "")


def test_bad_data_is_exit_4_with_its_line(rlp, tmp_path):
    file = tmp_path / "pairs.jsonl"
    good = json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"})
    file.write_text(f"{good}\n{good}\nnot json\n")
    done = rlp("data", "check", file, "--as", "preferences", code=4)
    assert "error: 1 of 3 rows are not preferences\n" in done.stderr
    assert f"  where: {file}:3\n" in done.stderr
    report = json.loads(rlp("data", "check", file, "--as", "preferences", "--json", code=4).stdout)
    assert (report["rows"], report["num_problems"]) == (3, 1)
    file.write_text(f"{good}\n")
    assert "1 rows, 1 good" in rlp("data", "check", file, "--as", "preferences").stdout


@pytest.mark.parametrize("as_json", [False, True])
def test_our_bug_shows_a_traceback_and_no_secret(as_json):
    words = ["explode", "--json"] if as_json else ["explode"]
    done = subprocess.run(
        [sys.executable, "-c", BOOM.format(words=words)],
        capture_output=True,
        text=True,
        env=environment(MY_API_KEY="s3cret-of-mine"),
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: upload with *** and *** failed" in done.stderr
    assert "please report it" in done.stderr
    for secret in ("hf_abcdef", "s3cret-of-mine", "hunter2"):
        assert secret not in done.stdout + done.stderr.replace('password = "hunter2-in-a-local"', "")
    if as_json:
        assert json.loads(done.stdout)["error"]["kind"] == "bug"


def test_verbose_adds_the_traceback_of_a_users_error(rlp, tmp_path):
    assert "Traceback" not in rlp("status", tmp_path, code=3).stderr
    assert "Traceback" in rlp("status", tmp_path, "--verbose", code=3).stderr
