import os
import pty
import signal
import subprocess
import sys

import pytest

from rlp_engine.errors import Interrupted
from rlp_engine.run.signals import StopSignal

PROGRAM = """
import multiprocessing, signal, sys, time
from rlp_engine.errors import Interrupted
from rlp_engine.run.signals import StopSignal

def say(text):
    print(text, flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
{setup}
with StopSignal() as stop:
    stop.before_exit(lambda: say("released"))
    say("ready")
    {body}
say("after")
"""
UNTIL_STOPPED = """
    try:
        while True:
            time.sleep(0.005)
            stop.check("after step 3")
    except Interrupted as error:
        say(f"{error.what} | {error.where} | {error.exit_code}")
"""
STUBBORN = """
    while True:
        time.sleep(0.005)
        if stop.requested:
            say("asked")
            time.sleep(60)
"""
DEAF = """
    import hashlib, threading
    threading.Timer(0.2, say, ["deep in it"]).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes without a look at signals
"""
WORKER = """
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    import os; os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.1)
    say(worker.is_alive())
    worker.terminate()
    worker.join(10)
    say(worker.exitcode)
"""


@pytest.fixture
def start():
    processes = []

    def starter(body: str, setup: str = "") -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(body=body, setup=setup)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield starter
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "words", "code"),
    [
        (signal.SIGINT, "Ctrl-C", 130),
        (signal.SIGTERM, "SIGTERM", 143),
        (signal.SIGHUP, "SIGHUP (closed terminal)", 129),
    ],
)
def test_one_signal_asks_for_an_orderly_stop(start, number, words, code):
    process = start(UNTIL_STOPPED)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert out == f"stopped by {words} | after step 3 | {code}\nafter\n"
    assert "once more to stop at once" in err
    assert process.returncode == 0


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_the_process_after_what_must_not_wait(start, second, code):
    process = start(STUBBORN)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(second)
    out, _ = process.communicate(timeout=20)
    assert out == "released\n"
    assert process.returncode == code


def test_signals_are_heard_while_the_main_thread_is_in_a_call_that_hears_none(start):
    process = start(DEAF)
    assert process.stdout.readline() == "deep in it\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert "once more to stop at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "released\n"
    assert process.returncode == 130


def test_a_closed_terminal_asks_for_an_orderly_stop_and_what_is_still_said_to_it_is_no_error():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM.format(body=UNTIL_STOPPED, setup="")])
    try:
        assert os.read(terminal, 100).startswith(b"ready")
    finally:
        os.close(terminal)
        status = os.waitpid(pid, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0  # it has said to nobody why it stops, and gone on to its end


def test_a_forked_worker_ends_by_sigterm_and_leaves_ctrl_c_to_its_parent(start):
    process = start(WORKER)
    out, _ = process.communicate(timeout=20)
    assert out == "True\n143\nafter\n"


def test_a_worker_that_lives_on_does_not_keep_us(start):
    body = """
    forking = multiprocessing.get_context("fork")
    is_up = forking.Event()
    def work():
        is_up.set()
        while True:
            time.sleep(0.05)
    forking.Process(target=work, daemon=True).start()
    is_up.wait()  # Python forgets a signal that comes while a forked process begins
    """
    assert start(body).communicate(timeout=20)[0] == "after\n"


def test_a_signal_that_is_ignored_stays_ignored(start):
    process = start("time.sleep(0.3); say(stop.requested)", setup="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "False\nafter\n"


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_check_passes_until_a_stop_is_asked_for():
    stop = StopSignal()
    stop.check()
    stop.request(signal.SIGINT)
    with pytest.raises(Interrupted) as error:
        stop.check()
    assert error.value.exit_code == 130


@pytest.mark.parametrize("ask", [StopSignal.request, lambda _: os.kill(os.getpid(), signal.SIGTERM)])
def test_an_echo_of_the_first_signal_is_not_a_second_one(ask):
    with StopSignal(announce=False, echo_seconds=60.0) as stop:
        stop.before_exit(lambda: pytest.fail("stopped at once"))
        ask(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            stop.check()
