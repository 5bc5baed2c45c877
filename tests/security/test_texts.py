"""Texts from strangers on the terminal, in logs and in records; and what a hostile server may answer."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from cli_process import SANDBOX, environment, run_rlp
from fake_server import FakeServer, Reply

from rlp_cli.render import Output
from rlp_engine.config.sections.generation import ServerConfig
from rlp_engine.errors import ServerError
from rlp_engine.run.events import EventLog
from rlp_engine.run.exit_reasons import reason_of
from rlp_engine.run.reporting import LogReporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.safe_text import keep_secret, redact
from rlp_engine.serving.client import ServerClient
from rlp_engine.serving.discovery import find_servers
from rlp_engine.serving.messages import Malformed, ServerRequest, parse_answer

HOSTILE = (
    "\x1b[2Jwiped \x1b]0;title\x07 \x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\ \x1b]52;c;cm0gLXJm\x07 "
    "ok\rOVER \u202etxt.exe\u202c \x9b31m \x07\x08 [bold red]markup[/] [link=http://evil]x[/link] :bomb:"
)
SHOWN = "[bold red]markup[/] [link=http://evil]x[/link] :bomb:"
ODD_LINES = [
    f'{{"step": 2, "kl": 1{"0" * 400}, "score": NaN, "length": 1e999}}',
    '{"step": "x", "kl": {"a": [1]}, "event": 5, "stage": ["x"], "instruction": 5, "input": 7, "response": [8]}',
    f'{{"step": 3, "kl": {"[" * 50_000 + "]" * 50_000}}}',
    f'{{"step": 4, "kl": {"[" * 500 + "]" * 500}}}',
    "5",
    '{"half":',
]
FORBIDDEN = set("\x1b\x07\x08\r\x9b\u202e\u202c")
KEY = "s3cret-of-these-tests"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose finished stage logged and answered what a stranger wrote."""
    run_dir = tmp_path / "run"
    samples = run_dir / "ppo" / "samples"
    samples.mkdir(parents=True)
    (run_dir / "run.toml").write_text(SANDBOX)
    first = json.dumps({"step": 1, HOSTILE: 2.0, "kl": HOSTILE})
    (run_dir / "ppo" / "metrics.jsonl").write_text("\n".join([first, *ODD_LINES, ""]))
    row = {"instruction": HOSTILE, "input": HOSTILE, "response": HOSTILE, "score": 1.0, HOSTILE: 3}
    (samples / "step_000001.jsonl").write_text("\n".join([json.dumps(row), *ODD_LINES, ""]))
    warned = {"event": "warned", "stage": "ppo", "step": 7, "message": HOSTILE}
    (run_dir / "events.jsonl").write_text("\n".join([*ODD_LINES, json.dumps(warned), ""]))
    return run_dir


@pytest.mark.parametrize(
    "words", [["--samples"], [], ["--verbose"], ["--csv"], ["--samples", "--json"], ["--verbose", "--json"]]
)
def test_what_a_model_wrote_does_not_drive_a_terminal(run_dir, words):
    done = run_rlp("metrics", run_dir, "ppo", *words)
    assert SHOWN in done.stdout or words == []
    assert not FORBIDDEN & set(done.stdout + done.stderr)


def test_a_page_and_a_status_of_files_that_a_stranger_made(run_dir):
    partial = run_dir / "ppo"
    (run_dir / "evaluate").mkdir()
    (run_dir / "evaluate" / "results.json").write_text(
        json.dumps({"policies": [{"name": HOSTILE, "win_rate": "high"}, 5], "reward_models": 7, "paired": {"a": 1}})
    )
    (partial / "attempt.json").write_text(json.dumps({"status": "failed", "message": HOSTILE, "seconds": "x"}))
    partial.rename(run_dir / "ppo.partial")
    done = run_rlp("status", run_dir)
    assert "ppo warned at step 7: wiped  link" in done.stdout
    shown = run_rlp("report", run_dir)
    page = (run_dir / "report.html").read_text()
    assert page.count("This could not be shown: a file of the run is not as rlp writes it (TypeError") == 1
    assert "4 lines of metrics.jsonl" in page
    assert "<h3>Alarms</h3>" in page
    assert not FORBIDDEN & set(done.stdout + done.stderr + shown.stdout + shown.stderr + page)


def test_samples_and_errors_of_a_data_file_and_its_name_do_not_either(tmp_path):
    file = tmp_path / f"x{HOSTILE.replace('/', '_')}.jsonl"
    good = {"prompt": HOSTILE, "chosen": HOSTILE, "rejected": "no"}
    file.write_text(json.dumps(good) + "\n" + json.dumps(good | {HOSTILE: 1, "chosen": 3}) + "\n")
    done = run_rlp("data", "check", file, "--as", "preferences", "--show", "2", code=4)
    assert SHOWN in done.stdout
    assert not FORBIDDEN & set(done.stdout + done.stderr)
    missing = run_rlp("status", tmp_path / HOSTILE.replace("/", "_"), code=3)
    assert not FORBIDDEN & set(missing.stdout + missing.stderr)


NOISE = """
import logging, os, sys, threading, warnings
from rlp_cli import app

def noisy(output):
    text = os.environ["NOISE"]
    warnings.warn(text)
    logging.getLogger("transformers").warning("model %s", text)
    try:
        raise OSError(text)
    except OSError:
        logging.getLogger("torch").exception("no weights")
    print(text)
    sys.stderr.write("\\r 50% of " + text)
    thread = threading.Thread(target=lambda: 1 / {}[text])
    thread.start()
    thread.join()
    output.warn("done")

app._add(app.app, "noisy", noisy)
app.main(["noisy"])
"""


def test_what_libraries_print_is_cleaned_and_not_hidden():
    """transformers quotes a model's name, and a rank's output goes to launcher.log."""
    key = {"NOISE_KEY": "s3cret-and-long", "NOISE": f"{HOSTILE} s3cret-and-long"}
    done = subprocess.run(
        [sys.executable, "-c", NOISE], capture_output=True, text=True, env=environment(**key), check=True
    )
    said = done.stdout + done.stderr
    assert said.count(SHOWN) >= 6
    assert all(f"{SHOWN} ***" in line for line in said.splitlines() if SHOWN in line)
    assert not FORBIDDEN & set(said)
    assert "\n 50% of wiped" in said
    assert "OSError: wiped" in said
    assert "s3cret" not in said


def test_logs_are_cleaned_as_the_terminal_is(tmp_path):
    keep_secret(KEY)
    log = LogReporter(tmp_path / "log")
    log.line(HOSTILE)
    log.warn(f"the key is {KEY}")
    log.close()
    text = (tmp_path / "log").read_text()
    assert SHOWN in text
    assert "the key is ***" in text
    assert not FORBIDDEN & set(text)


def test_records_of_what_went_wrong_hold_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEBODYS_PASSWORD", "correct horse")
    keep_secret(KEY)
    try:
        raise RuntimeError(f"cannot log in with {KEY} nor with correct horse")
    except RuntimeError as error:
        reason = reason_of(0, error)
        assert KEY in traceback.format_exc()
    reason.write(tmp_path)
    refused = ServerError(f"no: {KEY}", where=KEY, found=KEY)
    reason_of(1, refused).write(tmp_path)
    EventLog(tmp_path / "events.jsonl").append("failed", message=f"with {KEY}", stage="x")
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert written.count("***") == 9  # the last one in the line of code that the traceback shows
    assert KEY not in written
    assert "correct horse" not in written


def test_a_secret_is_blotted_out_whatever_its_variable_is_called_and_short_words_are_not(monkeypatch, capsys):
    keep_secret(KEY)
    keep_secret("short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel-as-can-be")
    assert redact(f"{KEY}s short parallel-as-can-be") == "***s short parallel-as-can-be"
    output = Output()
    output.say(KEY)
    output.warn(KEY)
    output.table(["x"], [[KEY]])
    output.text(KEY)
    assert KEY not in "".join(capsys.readouterr())
    assert sys.stdout.isatty() is False


def test_a_key_that_a_server_puts_into_its_answer_is_not_kept(monkeypatch):
    monkeypatch.setenv("OTHER", KEY)
    with FakeServer(says=lambda body: f"you sent {KEY} !") as server:
        config = ServerConfig(base_urls=[server.url], api_key_env="OTHER", model="m")
        assert ServerClient(config).ask(ServerRequest(max_tokens=4, prompt="p")).text == "you sent [key] !"
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


ANSWER = {"text": "a", "finish_reason": "stop"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        json.dumps({"choices": [ANSWER | {"index": "x"}, ANSWER | {"index": 1}]}).encode(),
        json.dumps({"choices": [ANSWER | {"index": None}, ANSWER]}).encode(),
        json.dumps({"choices": [ANSWER | {"logprobs": {"tokens": ["token_id:x"]}}, ANSWER]}).encode(),
        b'{"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [1e999]}}, '
        b'{"text": "a", "finish_reason": "stop"}]}',
        b"\xff\xfe",
        b"[]",
    ],
)
def test_an_answer_that_is_not_one_is_malformed_and_no_bug(body):
    with pytest.raises(Malformed):
        parse_answer(body, ServerRequest(max_tokens=4, prompt="p", n=2), index=0, server="s", attempts=1)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, {"data": [{"id": "m", "owned_by": ["vllm"]}]}, b" " * (17 * 1024 * 1024) + b"{}"]
)
def test_a_list_of_models_that_is_none_does_not_stop_the_search(body):
    with FakeServer(models=Reply(body=body)) as server:
        found = find_servers(ServerConfig(base_urls=[server.url], model="m"), "m", stop=StopSignal())
    assert list(found.names) == [server.url]
