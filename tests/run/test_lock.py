import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_pipeline import forked

from rlp_engine.errors import ResourceError, RunLockedError
from rlp_engine.run.lock import RunLock, require_unlocked
from rlp_engine.run.lock_owner import Watch, is_of_this_machine, live_owner, process_start, read_owner

HOLD = """
import sys, time
from pathlib import Path
from rlp_engine.run.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_file_is_there_while_held_and_gone_when_idle(tmp_path):
    with RunLock(tmp_path / "lock") as lock:
        assert read_owner(tmp_path / "lock").pid == os.getpid()
        assert lock.taken_over is None
        lock.check()
    assert os.listdir(tmp_path) == []


def test_a_live_owner_is_named(tmp_path, holder):
    with pytest.raises(RunLockedError) as error, RunLock(tmp_path / "lock"):
        pass
    assert f"pid {holder.pid} on {socket.gethostname()}" in error.value.where
    assert error.value.mend.endswith(f"kill {holder.pid}")
    assert error.value.exit_code == 8
    assert live_owner(tmp_path / "lock").pid == holder.pid, "a refused process must leave the owner's lock alone"


def test_a_killed_owner_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert live_owner(tmp_path / "lock") is None
    with RunLock(tmp_path / "lock") as lock:
        assert lock.taken_over.pid == holder.pid
        assert read_owner(tmp_path / "lock").pid == os.getpid()


def test_in_a_copy_of_the_folder_the_owner_of_the_original_is_nobody(tmp_path, holder):
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    lock = tmp_path.with_name("copy") / "lock"
    assert live_owner(lock) is None
    with RunLock(lock):
        assert live_owner(lock).pid == os.getpid()
    (tmp_path / "lock").rename(tmp_path / "moved")
    assert live_owner(tmp_path / "moved").pid == holder.pid, "who moves a run does not stop its owner"


def test_the_corpse_of_a_process_that_nobody_waited_for_is_dead(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the process table
    assert live_owner(tmp_path / "lock") is None


def test_another_process_with_the_same_pid_is_not_the_owner(tmp_path):
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": "of another boot", "since": "then"}
    (tmp_path / "lock").write_text(json.dumps(owner))
    with RunLock(tmp_path / "lock") as lock:
        assert lock.taken_over.process_started == "of another boot"


@pytest.mark.parametrize("content", [b"", b"{", b'{"host": "a"}', b"\xff\xfe"])
def test_an_illegible_lock_that_nobody_holds_is_taken(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)
    with RunLock(tmp_path / "lock") as lock:
        lock.check()


DAY = 86_400.0
HEART = """
import os, sys, time
lock, seconds = sys.argv[1:]
while True:
    try:
        now = time.time() + float(seconds)
        os.utime(lock, (now, now))
    except FileNotFoundError:
        pass
    time.sleep(0.1)
"""


def lock_of(folder, **owner) -> Path:
    (folder / "lock").write_text(
        json.dumps({"host": "elsewhere", "pid": 1, "process_started": "x", "since": "-"} | owner)
    )
    return folder / "lock"


@pytest.mark.parametrize("skew", [-DAY, 3600.0])
def test_another_machine_is_believed_while_its_heart_beats_whatever_its_clock_shows(tmp_path, skew):
    lock = lock_of(tmp_path)
    heart = subprocess.Popen([sys.executable, "-c", HEART, lock, str(skew)])
    told = []
    try:
        with pytest.raises(RunLockedError, match="another process") as error, RunLock(lock, Watch(told=told.append)):
            pass
    finally:
        heart.kill()
        heart.wait()
    assert "pid 1 on elsewhere" in error.value.where
    assert told == ["the lock names pid 1 on elsewhere, since -: watching for up to 60 s whether it still works"]
    assert read_owner(lock).host == "elsewhere", "a refused process must leave the owner's lock alone"


@pytest.mark.parametrize("skew", [-DAY, DAY])
def test_another_machine_that_is_silent_while_we_watch_is_dead_whatever_its_clock_showed(tmp_path, skew):
    lock = lock_of(tmp_path)
    os.utime(lock, (time.time() + skew,) * 2)
    told = []
    watch = Watch(seconds=0.3, told=told.append)
    require_unlocked(lock, watch)
    assert len(told) == 1
    require_unlocked(lock, watch)
    assert len(told) == 1, "what was silent for so long need not be watched again"
    with RunLock(lock, watch) as taken:
        assert taken.taken_over.host == "elsewhere"
        taken.check()


@pytest.mark.parametrize(("kind", "is_ours"), [("ext4", True), ("nfs4", False), ("fuse.sshfs", False)])
def test_a_twin_of_this_host_is_another_machine_where_the_disk_may_be_shared(tmp_path, kind, is_ours):
    _, _, ticks = process_start(os.getpid()).rpartition(":")
    lock = lock_of(tmp_path, host=socket.gethostname(), pid=os.getpid(), process_started=f"another boot:{ticks}")
    device = lock.stat().st_dev
    mounts = tmp_path / "mountinfo"
    other = "22 1 0:9999 / /other rw - nfs4 server:/ rw\n"
    mounts.write_text(f"{other}23 1 {os.major(device)}:{os.minor(device)} / /here rw shared:1 - {kind} a rw\n")
    assert is_of_this_machine(read_owner(lock), lock, mounts) == is_ours
    mounts.write_text(other)
    assert not is_of_this_machine(read_owner(lock), lock, mounts), "who knows?"


def test_a_watch_ends_when_its_owner_does_and_when_we_are_stopped(tmp_path):
    lock = lock_of(tmp_path)
    with RunLock(lock, Watch(meanwhile=lock.unlink)) as taken:
        assert taken.taken_over is None
        taken.check()

    def stop():
        raise InterruptedError

    lock = lock_of(tmp_path)
    with pytest.raises(InterruptedError), RunLock(lock, Watch(meanwhile=stop)):
        pass
    assert read_owner(lock).host == "elsewhere"


def test_who_slept_while_another_machine_took_the_lock_over_notices(tmp_path):
    with RunLock(tmp_path / "lock") as lock:
        (tmp_path / "lock").write_text(json.dumps({"host": "x", "pid": 1, "process_started": "x", "since": "-"}))
        with pytest.raises(RunLockedError, match="taken over"):
            lock.check()
    assert read_owner(tmp_path / "lock").host == "x", "the new owner's file is left alone"


def test_of_two_that_take_one_dead_lock_over_the_last_to_write_has_it(tmp_path):
    lock = lock_of(tmp_path)

    def overwrite():
        while read_owner(lock).host == "elsewhere":
            time.sleep(0.01)
        lock_of(tmp_path, host="third")

    other = threading.Thread(target=overwrite)
    other.start()
    with pytest.raises(RunLockedError) as error, RunLock(lock, Watch(seconds=0.0)):
        pass
    other.join()
    assert "pid 1 on third" in error.value.where


def test_a_file_system_without_flock_is_said_in_words(tmp_path):
    def work():
        def refuse(event, _):
            if event == "fcntl.flock":
                raise OSError(errno.ENOSYS, "Function not implemented")

        sys.addaudithook(refuse)
        with pytest.raises(ResourceError, match="cannot lock files"), RunLock(tmp_path / "lock"):
            pass

    assert forked(work) == 0


def test_a_worker_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    reader, writer = os.pipe()

    def parent():
        with RunLock(tmp_path / "lock"):
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            worker.start()
            os.write(writer, str(worker.pid).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    forked(parent)
    worker = int(os.read(reader, 100))
    try:
        os.kill(worker, 0)  # it lives
        with RunLock(tmp_path / "lock") as lock:
            assert lock.taken_over is not None
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_lock_removed_by_hand_is_noticed_and_its_successor_left_alone(tmp_path):
    path = tmp_path / "lock"
    with RunLock(path) as lock:
        path.unlink()
        with pytest.raises(RunLockedError, match="removed"):
            lock.check()
        path.write_text("another process's")
    assert path.read_text() == "another process's"


def test_a_lock_removed_between_open_and_flock_is_tried_again(tmp_path):
    path = tmp_path / "lock"

    def work():
        def owner_leaves(event, _):
            if event == "fcntl.flock" and not left:
                left.append(path.unlink())

        left = []
        sys.addaudithook(owner_leaves)
        with RunLock(path) as lock:
            assert left
            lock.check()

    assert forked(work) == 0


def count_up(folder: str, times: int) -> None:
    """Read, add, write: loses counts if two processes are ever inside at once."""
    from pathlib import Path

    counter = Path(folder, "counter")
    done = 0
    while done < times:
        try:
            with RunLock(Path(folder, "lock")):
                value = int(counter.read_text())
                counter.write_text(str(value + 1))
                done += 1
        except RunLockedError:
            continue


def test_many_processes_are_inside_one_at_a_time(tmp_path):
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count_up, args=(str(tmp_path), 100)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "counter").read_text() == "300"


def test_a_folder_that_nobody_may_write_in_is_said_in_words(read_only_folder):
    lock = RunLock(read_only_folder / "lock")
    with pytest.raises(ResourceError, match="cannot write") as error, lock:
        pass
    assert str(read_only_folder) in error.value.where
