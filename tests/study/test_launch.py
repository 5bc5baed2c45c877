"""Runs as processes: order, several at once, failures beside each other, signals handed on."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from rlp_engine.run.signals import StopSignal
from rlp_engine.study.launch import Task, run_all

# Writes events as a run does; stops on a signal as a run does.
RUN = """
import json, os, pathlib, signal, sys, time
folder, seconds, code = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
folder.mkdir(exist_ok=True)
stopped = []
signal.signal(signal.SIGINT, lambda n, f: stopped.append(n) if not stopped else sys.exit(7))
def event(**fields):
    with open(folder / "events.jsonl", "a") as file:
        file.write(json.dumps(fields) + "\\n")
event(event="started", stage="sft", time=time.time(), group=os.getpgrp())
end = time.time() + seconds
while time.time() < end and not stopped:
    time.sleep(0.01)
event(event="finished" if not stopped else "interrupted", stage="sft", time=time.time())
if stopped:
    time.sleep(0.3)  # a second signal within this time would make it 7
    sys.exit(130)
if code:
    print(json.dumps({"error": {"what": "it broke", "exit_code": code}}))
sys.exit(code)
"""


def task(folder, name, *, seconds=0.05, code=0, after=()):
    command = (sys.executable, "-c", RUN, str(folder / name), str(seconds), str(code))
    return Task(name, folder / name, command, after)


def run(tasks, jobs=1, stop=None):
    events, ends = [], []
    outcomes = run_all(
        tasks,
        jobs=jobs,
        stop=stop or StopSignal(),
        on_event=lambda name, event: events.append((name, event["event"], event["time"])),
        on_end=ends.append,
    )
    assert outcomes == ends
    return {outcome.name: outcome for outcome in outcomes}, events


def test_a_failure_is_told_as_the_run_told_it_and_the_others_go_on(tmp_path):
    outcomes, _ = run([task(tmp_path, "a", code=4), task(tmp_path, "b"), task(tmp_path, "c", after=("a",))])
    assert {name: outcome.exit_code for name, outcome in outcomes.items()} == {"a": 4, "b": 0, "c": 0}
    assert outcomes["a"].error["what"] == "it broke"


def test_a_process_that_says_nothing_is_told_by_its_end(tmp_path):
    killed = Task("a", tmp_path, (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    broken = Task("b", tmp_path, (sys.executable, "-c", "raise SystemExit('no such thing')"))
    outcomes, _ = run([killed, broken])
    assert outcomes["a"].exit_code == 137
    assert "SIGKILL" in outcomes["a"].error["what"]
    assert outcomes["b"].error["found"] == "no such thing"


def test_one_waits_for_another_and_two_go_side_by_side(tmp_path):
    tasks = [task(tmp_path, "a", seconds=0.6), task(tmp_path, "b", seconds=0.6), task(tmp_path, "c", after=("a",))]
    _, events = run(tasks, jobs=3)
    at = {(name, kind): when for name, kind, when in events}
    assert len(events) == 6, "every event is told once"
    assert at["b", "started"] < at["a", "finished"], "side by side"
    assert at["c", "started"] > at["a", "finished"], "after it"


def test_ctrl_c_reaches_every_run_once_and_starts_no_more(tmp_path):
    tasks = [task(tmp_path, name, seconds=30) for name in "abc"]

    def press_ctrl_c():
        while not all((tmp_path / name / "events.jsonl").exists() for name in "ab"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c).start()
    with StopSignal() as stop:
        outcomes, _ = run(tasks, jobs=2, stop=stop)
    assert {name: outcome.exit_code for name, outcome in outcomes.items()} == {"a": 130, "b": 130}
    assert not (tmp_path / "c").exists()


def test_a_terminal_sends_ctrl_c_to_us_alone(tmp_path):
    run([task(tmp_path, "a")])
    started = json.loads((tmp_path / "a" / "events.jsonl").read_text().splitlines()[0])
    assert started["group"] != os.getpgrp()
