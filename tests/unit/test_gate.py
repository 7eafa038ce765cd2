"""The gate: one writing process at a time, and none blocked for long by one that stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest

from raven_spool.spool.files import open_private
from raven_spool.spool.gate import Gate
from tests.support.waiting import wait_until

# Takes the named lock file of a spool directory, says so, and keeps it until its input ends.
HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""

# Adds to a number in a file, many times, reading and writing it apart.
COUNTER = """
import sys, time
from raven_spool.spool.gate import Gate
directory, rounds = sys.argv[1], int(sys.argv[2])
gate = Gate(directory)
for _ in range(rounds):
    assert gate.acquire(time.monotonic() + 30)
    with open(directory + "/number", "r+") as file:
        number = int(file.read())
        file.seek(0)
        file.write(str(number + 1))
    gate.release()
"""


def soon(seconds=0.0):
    return time.monotonic() + seconds


@pytest.fixture
def make_gate(tmp_path):
    gates = []

    def make():
        gates.append(Gate(str(tmp_path)))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


@pytest.fixture
def start():
    """Starts Python programs; none outlives the test."""
    children = []

    def start_one(program, *arguments, **streams):
        child = subprocess.Popen([sys.executable, "-c", program, *arguments], text=True, **streams)
        children.append(child)
        return child

    yield start_one
    for child in children:
        child.kill()
        child.wait(10)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def hold(start, tmp_path):
    """Another process that holds `queue.lock` or `write.lock`."""

    def hold_lock(name):
        child = start(HOLDER, str(tmp_path / name), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout.readline() == "held\n"
        return child

    return hold_lock


def test_gate_is_won_at_once_when_free(make_gate):
    gate = make_gate()
    for _ in range(3):
        assert gate.acquire(soon())
        gate.release()


def test_second_gate_waits_its_time_and_no_longer(make_gate):
    holder, waiter = make_gate(), make_gate()
    assert holder.acquire(soon())

    began = time.monotonic()
    assert not waiter.acquire(began + 0.1)
    assert 0.1 <= time.monotonic() - began < 0.5

    holder.release()
    assert waiter.acquire(soon())


def test_deadline_that_is_past_means_one_try(make_gate):
    holder, waiter = make_gate(), make_gate()
    assert holder.acquire(soon())
    assert not waiter.acquire(soon(-1))
    holder.release()
    assert waiter.acquire(soon(-1))


def test_waiter_that_gave_up_holds_nothing(make_gate):
    holder, waiter, third = make_gate(), make_gate(), make_gate()
    assert holder.acquire(soon())
    assert not waiter.acquire(soon(0.02))
    holder.release()

    assert third.acquire(soon())


def test_release_of_what_is_not_held_is_harmless(make_gate):
    holder, stranger, third = make_gate(), make_gate(), make_gate()
    stranger.release()
    assert holder.acquire(soon())
    stranger.release()
    stranger.release()

    assert not third.acquire(soon(0.02))
    holder.release()
    holder.release()
    assert third.acquire(soon())


def test_one_writer_at_a_time_among_processes(start, tmp_path):
    (tmp_path / "number").write_text("0")
    children = [start(COUNTER, str(tmp_path), "200") for _ in range(4)]

    assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    assert (tmp_path / "number").read_text() == "800"


def test_holder_in_another_process_keeps_us_out(make_gate, hold):
    child = hold("write.lock")
    gate = make_gate()

    assert not gate.acquire(soon(0.05))
    child.stdin.close()

    assert gate.acquire(soon(10))


def test_dead_holder_holds_nothing(make_gate, hold):
    child = hold("write.lock")
    gate = make_gate()
    child.kill()
    child.wait(10)

    assert gate.acquire(soon())


def test_exclusion_outlives_the_death_of_a_holder(make_gate, hold):
    child = hold("write.lock")
    one, two = make_gate(), make_gate()
    child.kill()
    child.wait(10)

    assert one.acquire(soon())
    assert not two.acquire(soon(0.02))


def test_stopped_holder_blocks_nobody_beyond_the_deadline(make_gate, hold):
    child = hold("write.lock")
    os.kill(child.pid, signal.SIGSTOP)

    began = time.monotonic()
    assert not make_gate().acquire(began + 0.1)
    assert time.monotonic() - began < 0.5


def test_stopped_waiter_in_the_queue_is_gone_round(make_gate, hold):
    child = hold("queue.lock")
    os.kill(child.pid, signal.SIGSTOP)
    gate = make_gate()

    for _ in range(3):
        began = time.monotonic()
        assert gate.acquire(began + 0.2)
        assert time.monotonic() - began < 0.2
        gate.release()


def test_writers_exclude_each_other_though_the_queue_is_stuck(make_gate, hold):
    os.kill(hold("queue.lock").pid, signal.SIGSTOP)
    one, two = make_gate(), make_gate()
    assert one.acquire(soon(0.1))

    assert not two.acquire(soon(0.05))
    one.release()
    assert two.acquire(soon(0.1))


def test_waiting_process_comes_in_when_the_gate_is_freed(make_gate, start, tmp_path):
    (tmp_path / "number").write_text("0")
    gate = make_gate()
    assert gate.acquire(soon())
    child = start(COUNTER, str(tmp_path), "1")
    wait_until(
        lambda: _is_locked(tmp_path / "queue.lock"), what="the child at the head of the queue"
    )
    assert (tmp_path / "number").read_text() == "0"

    gate.release()

    assert child.wait(10) == 0
    assert (tmp_path / "number").read_text() == "1"


def _is_locked(path):
    """As the kernel lists it, so that looking takes no lock from anybody."""
    if not path.exists():
        return False
    inode = f":{path.stat().st_ino} "
    with open("/proc/locks") as locks:
        return any("FLOCK" in line and inode in line for line in locks)


def test_full_pipe_of_hints_blocks_nobody(make_gate):
    gate = make_gate()
    for _ in range(70_000):
        gate.hint()

    assert gate.acquire(soon())
    gate.release()


def test_stale_hints_let_nobody_in(make_gate):
    holder, waiter = make_gate(), make_gate()
    assert holder.acquire(soon())
    for _ in range(10):
        waiter.hint()

    assert not waiter.acquire(soon(0.05))


# Other tests' threads may live yet; the child calls nothing but close.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_close_in_a_child_leaves_the_parent_s_lock(make_gate, tmp_path):
    gate, other = make_gate(), make_gate()
    assert gate.acquire(soon())
    child = os.fork()
    if child == 0:
        gate.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    assert not other.acquire(soon(0.02))


def test_lock_files_are_private(make_gate, tmp_path):
    before = os.umask(0)
    try:
        make_gate()
    finally:
        os.umask(before)

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"queue.lock": 0o600, "write.lock": 0o600, "write.turn": 0o600}


def test_lock_file_that_is_a_link_is_refused(tmp_path):
    os.close(open_private(str(tmp_path / "elsewhere")))
    (tmp_path / "queue.lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        Gate(str(tmp_path))
