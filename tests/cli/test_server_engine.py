"""`rlp` with servers as the engine: real processes, real sockets."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from cli_process import RLP, environment, run_rlp
from fake_server import FakeServer, Reply
from policy_server import PolicyServer

ANSWERED = 7  # before the run is killed


def words(server_url: str) -> list[str]:
    sets = {
        "generation.engine": "server",
        "generation.server.base_urls": [server_url],
        "generation.server.max_in_flight": 1,
    }
    return [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def answers(run_dir: Path) -> list[dict]:
    files = sorted((run_dir / "collect" / "answers").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_sigkill_in_the_middle_of_a_shard_pays_for_no_answer_twice(sft_run: Path, tmp_path: Path):
    """The policy's folder is what a server knows it by, so that the run stays in one place here."""
    run_dir = shutil.copytree(sft_run, tmp_path / "run", symlinks=True)
    hold = threading.Event()

    def misbehave(number: int, body: dict) -> Reply | None:
        return Reply(wait_for=hold) if number == ANSWERED else None

    with PolicyServer({str(run_dir / "sft" / "model"): run_dir / "sft" / "model"}, misbehave=misbehave) as server:
        command = [RLP, "run", str(run_dir), "--only", "collect", *words(server.url)]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        pending = run_dir / "collect.partial" / "answers" / "pending_00000.jsonl"
        while not pending.exists() or len(pending.read_bytes().splitlines()) < ANSWERED:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold.set()
        run_rlp("run", run_dir, "--only", "collect", *words(server.url))
        asked = Counter(body["seed"] for body in server.requests)
        rows = answers(run_dir)
        assert len(asked) == len(rows) == len({(row["prompt_id"], row["draw"]) for row in rows})
        assert asked.total() == len(rows) + 1  # the one that the killed run had not got
        assert not list((run_dir / "collect").rglob("pending*"))
        once_more = len(server.requests)
        run_rlp("run", run_dir, "--only", "collect", "--dry-run", "--force", "collect", *words(server.url))
        assert len(server.requests) == once_more


def test_a_key_is_written_and_shown_nowhere_though_the_server_repeats_it(sft_run: Path, tmp_path: Path):
    run_dir = shutil.copytree(sft_run, tmp_path / "run", symlinks=True)
    key = "planted+0123456789/abcdef"

    def repeat(number: int, body: dict) -> Reply:
        head = server.headers[-1]["authorization"]
        assert head == f"Bearer {key}"
        return Reply(400, {"error": f"\x1b]0;owned\x07 {head} is [bold]wrong[/bold]"}, {"x-key": head})

    with FakeServer(misbehave=repeat) as server:
        sets = ["generation.server.kind=openai", "generation.server.api_key_env=PLANTED"]
        flags = [*words(server.url), *(word for text in sets for word in ("--set", text))]
        for more in (["--json"], ["--verbose"]):  # the last one shows a traceback
            done = run_rlp("run", run_dir, "--only", "collect", *flags, *more, code=5, PLANTED=key)
            shown = done.stdout + done.stderr
            assert "refused a request (400)" in shown
            assert "[bold]wrong[/bold]" in shown
            assert "\x1b" not in shown
            assert key not in shown
    assert "Traceback" in shown
    written = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert any(b"refused a request" in data for data in written.values())
    assert [path for path, data in written.items() if key.encode() in data] == []
    assert [path for path, data in written.items() if b"\x1b" in data and path.suffix != ".safetensors"] == []


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["engine=server"], "needs the address of a server"),
        (["engine=server", 'server.base_urls=["localhost:8000"]'], "is no address"),
        (["engine=server", 'server.base_urls=["http://h/v1"]', "server.api_key_env=hf_12"], "want the NAME"),
        (['server.base_urls=["http://h/v1"]'], "is not read when generation.engine = 'native'"),
        (["engine=servant"], "generation.engine"),
    ],
)
def test_config_check_names_what_is_wrong(new_run: Path, sets: list[str], said: str):
    flags = [word for item in sets for word in ("--set", f"generation.{item}")]
    shown = run_rlp("config", "check", new_run, *flags, code=3)
    assert said in " ".join((shown.stdout + shown.stderr).split())
    assert "hf_12" not in shown.stdout + shown.stderr
