"""Forks at any moment: nobody hangs, nothing is lost, nothing comes twice."""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raven_spool.errors import SpoolUnusable
from raven_spool.spool import Spool, fork
from raven_spool.spool.queue import Connection, EventQueue
from raven_spool.transport.spool import SpoolTransport
from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import (
    check_nothing_lost,
    count_repeats,
    make_transport,
    new_id,
    read_ledger,
    readable_ids,
    send,
    stored_ids,
)
from tests.faults.test_signals import Injector
from tests.faults.test_stop import stop_with_the_gate
from tests.support import answers, evidence
from tests.support.ingest import Ingest
from tests.support.spools import HERE, event
from tests.support.waiting import wait_until

NOWHERE = "http://127.0.0.1:9"  # backend "none": nobody goes there
FORKS = 50
_CHILD_SECONDS = 15


def reap(pid: int) -> int:
    """Wait for a forked child; one that hangs is killed and told.

    Raises:
        TimeoutError: it hung.
    """
    deadline = time.monotonic() + _CHILD_SECONDS
    status = 0

    def has_ended() -> bool:
        nonlocal status
        ended, status = os.waitpid(pid, os.WNOHANG)
        return ended == pid

    try:
        wait_until(has_ended, timeout_seconds=deadline - time.monotonic(), what=f"child {pid}")
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(status)


def send_and_leave(transport: SpoolTransport, url: str, returned: Path, count: int = 1) -> None:
    """What a forked child does; it never goes back into the parent's program."""
    code = 1
    try:
        for _ in range(count):
            Notes(returned).write(send(transport, url))
        wait_until(lambda: transport.flusher.volatile == 0, timeout_seconds=10)
        code = 0
    finally:
        os._exit(code)


class Writers:
    """Threads that send until told to stop."""

    def __init__(self, transport: SpoolTransport, url: str, returned: Path, count: int) -> None:
        self._stopping = threading.Event()
        self._arguments = transport, url, Notes(returned)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        transport, url, returned = self._arguments
        while not self._stopping.is_set():
            returned.write(send(transport, url))

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


def check_once(path: Path, returned: Notes) -> None:
    """Every event whose send returned is stored, once, and no other."""
    counts = Counter(stored_ids(path))
    assert set(counts) == set(returned.read())
    assert max(counts.values()) == 1
    assert read_ledger(path)["ready"] == len(counts)


# -- what a signal handler raises in the hooks ----------------------------------------------------


class Interruption(BaseException):
    pass


class Interrupter:
    """Raises once, at the n-th instant of our fork hooks at which Python looks for signals: at the
    start of a function, after a call. Hooks that Python has begun before a line of theirs ran are
    left out: what comes in so early, the first hook of all hears."""

    def __init__(self, instant: int) -> None:
        self._left = instant
        self.has_raised = False

    def __call__(self, frame: Any, event: str, _: object) -> None:
        begins = event == "call" and not _is_hook(frame)
        if self.has_raised or not (begins or event == "c_return") or not _is_in_hook(frame):
            return
        self._left -= 1
        if self._left < 0:
            self.has_raised = True
            raise Interruption


def _is_hook(frame: Any) -> bool:
    hooks = ("_before", "_after_in_parent", "_after_in_child")
    return frame.f_code.co_filename == fork.__file__ and frame.f_code.co_name in hooks


def _is_in_hook(frame: Any) -> bool:
    while frame is not None and not _is_hook(frame):
        frame = frame.f_back
    return frame is not None


def fork_interrupted_at_each_instant(path: Path, instants: Path) -> None:
    """Two spools, one of them with its file open, and a child that uses both."""
    sys.unraisablehook = lambda _: None  # Python tells it: that is not at issue
    spools = [Spool(str(path / name), fsync="no") for name in ("open", "closed")]
    instant, was_raised = 0, True
    while was_raised:
        assert spools[0].enqueue(event(instant), HERE)
        interrupter = Interrupter(instant)
        sys.setprofile(interrupter)
        child = os.fork()
        sys.setprofile(None)
        if child == 0:
            _use_in_child(spools)
        assert reap(child) == 0, instant
        assert _use_in_another_thread(spools), instant
        was_raised = interrupter.has_raised
        instant += 1
    Notes(instants).write(str(instant))


def _use_in_child(spools: list[Spool]) -> None:
    """Where the hook before the fork was cut short, a child may have to stay off the file."""
    code = 1
    try:
        for spool in spools:
            with contextlib.suppress(SpoolUnusable):
                assert spool.enqueue(event(0), HERE, timeout_seconds=5)
        code = 0
    finally:
        os._exit(code)


def _use_in_another_thread(spools: list[Spool]) -> bool:
    used: list[int] = []
    thread = threading.Thread(
        target=lambda: used.extend(one.enqueue(event(1), HERE, timeout_seconds=5) for one in spools)
    )
    thread.start()
    thread.join(_CHILD_SECONDS)
    return len(used) == 2 and all(used)


@pytest.mark.evidence
def test_what_a_signal_raises_in_the_fork_hooks_leaves_no_lock(tmp_path: Path) -> None:
    """Found as "in the middle of another operation of this thread" at every later use, after Ctrl-C
    in a program that forked: the hook left the locks of all stores that it had not come to."""
    instants = tmp_path / "instants"
    with Child(fork_interrupted_at_each_instant, tmp_path, instants) as child:
        assert child.join(60) == 0
    (count,) = Notes(instants).read()
    assert int(count) > 50
    evidence.note(
        "os.fork with an exception raised at each instant of the hooks, one after another",
        promise=5, tried=f"{count} forks", seen="parent and child go on; no lock was left",
    )  # fmt: skip


# -- os.fork --------------------------------------------------------------------------------------


def fork_while_threads_send(path: Path, returned: Path) -> None:
    transport = make_transport(path, backend="none", send_timeout=5)
    writers = Writers(transport, NOWHERE, returned, 4)
    codes = []
    for _ in range(FORKS):
        pid = os.fork()
        if pid == 0:
            send_and_leave(transport, NOWHERE, returned, 3)
        codes.append(reap(pid))
    writers.stop()
    assert codes == [0] * FORKS
    transport.close()


@pytest.mark.evidence
def test_fork_while_threads_send_hangs_never_and_loses_nothing(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Child(fork_while_threads_send, path, returned.path) as parent:
        assert parent.join(60) == 0
    assert len(returned.read()) > FORKS * 3
    check_once(path, returned)
    evidence.note(
        "os.fork while four threads send; parent and child go on sending",
        promise=5,
        tried=f"{FORKS} forks",
        events=len(returned.read()),
        lost=0,
        twice=0,
    )


def fork_while_the_flusher_works(path: Path, returned: Path, url: str) -> None:
    transport = make_transport(path, send_timeout=5)
    writers = Writers(transport, url, returned, 2)
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            send_and_leave(transport, url, returned, 3)
        assert reap(pid) == 0
    writers.stop()
    assert transport.flush(30)
    transport.close()


def test_fork_while_the_flusher_works_delivers_each_event_once(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with (
        Ingest() as ingest,
        Child(fork_while_the_flusher_works, path, returned.path, ingest.url) as p,
    ):
        assert p.join(60) == 0
        check_nothing_lost(returned.read(), ingest, path)
        assert count_repeats(ingest) == 0


def close_after_a_fork(path: Path, returned: Path) -> None:
    """The parent closes while children use what they opened themselves."""
    transport = make_transport(path, backend="none", send_timeout=5)
    pids = []
    for _ in range(4):
        Notes(returned).write(send(transport, NOWHERE))
        pid = os.fork()
        if pid == 0:
            send_and_leave(transport, NOWHERE, returned, 50)
        pids.append(pid)
        transport.close()
    assert [reap(pid) for pid in pids] == [0] * 4


def test_parent_that_closes_after_a_fork_takes_nothing_away(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Child(close_after_a_fork, path, returned.path) as parent:
        assert parent.join() == 0
    assert len(returned.read()) == 204
    check_once(path, returned)


def fork_in_a_handler(path: Path, returned: Path, child_goes_on: bool) -> None:
    """At random instants of sends; the children return into the middle of the parent's send."""
    transport = make_transport(path, backend="none", send_timeout=0.5)
    notes, chance = Notes(returned), random.Random(7)
    parent, pids = os.getpid(), []

    def fork(number: int, frame: object) -> None:
        pid = os.fork()
        if pid:
            pids.append(pid)
        elif not child_goes_on:
            send_and_leave(transport, NOWHERE, returned)

    signal.signal(signal.SIGALRM, fork)
    for _ in range(FORKS):
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 4e-4))
        while len(pids) < 1 and os.getpid() == parent:
            event_id = send(transport, NOWHERE)
            if os.getpid() == parent:  # in the child the parent's event is the parent's
                notes.write(event_id)
        if os.getpid() != parent:
            send_and_leave(transport, NOWHERE, returned)
        assert reap(pids.pop()) == 0
    transport.close()


@pytest.mark.evidence
@pytest.mark.parametrize("child_goes_on", [False, True], ids=["in the handler", "after it"])
def test_fork_in_a_signal_handler_inside_a_send(tmp_path: Path, child_goes_on: bool) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Child(fork_in_a_handler, path, returned.path, child_goes_on) as parent:
        assert parent.join(60) == 0
    if child_goes_on:  # from its copy of the parent's send: that event may come from both
        assert set(returned.read()) <= set(stored_ids(path))
        read_ledger(path)
    else:
        check_once(path, returned)
    evidence.note(
        "fork in a signal handler inside a send, the child "
        + ("going on in its copy of that send" if child_goes_on else "ending in the handler"),
        promise=5,
        tried=f"{FORKS} forks",
        events=len(returned.read()),
        lost=0,
    )


def fork_at_each_instant_of_a_send(path: Path, instants: Path) -> None:
    """The child looks at once whether it has been given an open file of SQLite's."""
    # "no": a thread that syncs opens the log by itself, without a lock of SQLite's on it.
    transport = make_transport(path, backend="none", send_timeout=5, fsync="no")
    send(transport, NOWHERE)

    def fork_and_look(where: str) -> None:
        pid = os.fork()
        if pid == 0:
            for name in open_databases():
                Notes(instants).write(f"{where}: a child has {name} open")
            os._exit(0)
        assert reap(pid) == 0

    nth, reached = 0, True
    while reached:
        nth += 1
        injector = Injector(nth, fork_and_look, within="raven_spool/spool|persistqueue")
        with injector.armed():
            send(transport, NOWHERE)
        reached = injector.seen >= nth
    Notes(instants).write(str(nth))


def open_databases() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [name for name in found if "/data.db" in name]


def test_no_open_file_of_sqlite_crosses_a_fork_at_any_instant_of_a_send(tmp_path: Path) -> None:
    instants = tmp_path / "instants"
    with Child(fork_at_each_instant_of_a_send, tmp_path / "spool", instants) as child:
        assert child.join(100) == 0
    *troubles, count = Notes(instants).read()
    assert not troubles, "\n".join(troubles)
    assert int(count) > 100


def fork_while_threads_open(path: Path, returned: Path) -> None:
    """Threads make spools, use and close them, while the main thread forks."""
    stopping = threading.Event()
    made = [0] * 3

    def open_many(number: int) -> None:
        while not stopping.is_set():
            made[number] += 1
            own = make_transport(path / f"{number}-{made[number]}", backend="none", send_timeout=5)
            send(own, NOWHERE)
            own.close()

    threads = [
        threading.Thread(target=open_many, args=(number,), daemon=True) for number in range(3)
    ]
    for thread in threads:
        thread.start()
    transport = make_transport(path / "shared", backend="none", send_timeout=5)
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            send_and_leave(transport, NOWHERE, returned)
        assert reap(pid) == 0
    stopping.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert all(count > 1 for count in made)


def test_fork_while_threads_open_spools(tmp_path: Path) -> None:
    path, returned = tmp_path / "spools", Notes(tmp_path / "returned")
    with Child(fork_while_threads_open, path, returned.path) as parent:
        assert parent.join(60) == 0
    check_once(path / "shared", returned)


# -- multiprocessing ------------------------------------------------------------------------------


def send_in_a_process(path: Path, returned: Path, url: str) -> None:
    transport = make_transport(path, backend="none", send_timeout=5)
    for _ in range(5):
        Notes(returned).write(send(transport, url))
    transport.close()


def use_multiprocessing(path: Path, returned: Path, method: str) -> None:
    multiprocessing.current_process()._config["daemon"] = False  # else it may have no children
    transport = make_transport(path, backend="none", send_timeout=5)
    writers = Writers(transport, NOWHERE, returned, 2)
    context = multiprocessing.get_context(method)
    processes = [
        context.Process(target=send_in_a_process, args=(path, returned, NOWHERE)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    writers.stop()
    assert [process.exitcode for process in processes] == [0] * 4
    transport.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_share_the_spool(tmp_path: Path, method: str) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Child(use_multiprocessing, path, returned.path, method) as parent:
        assert parent.join(60) == 0
    check_once(path, returned)


# -- leaders --------------------------------------------------------------------------------------


def lead_and_fork(path: Path, pids: Path, url: str) -> None:
    transport = make_transport(path)
    send(transport, url)
    wait_until(lambda: transport.stats()["delivered"] == 1)
    pid = os.fork()
    if pid == 0:
        wait_for_ever()
    Notes(pids).write(str(pid))
    wait_for_ever()


def follow(path: Path, url: str) -> None:
    transport = make_transport(path)
    send(transport, url)
    wait_for_ever()


def test_leader_killed_while_its_forked_child_lives_is_followed(tmp_path: Path) -> None:
    path, pids = tmp_path / "spool", Notes(tmp_path / "pids")
    with Ingest() as ingest, Child(lead_and_fork, path, pids.path, ingest.url) as leader:
        grandchild = int(pids.wait_for(1)[0])
        try:
            leader.kill()
            with Child(follow, path, ingest.url):
                ingest.wait_for(2, timeout_seconds=4)
        finally:
            os.kill(grandchild, signal.SIGKILL)


# -- forks made in C ------------------------------------------------------------------------------


def fork_in_c(path: Path, returned: Path, url: str) -> None:
    """In the middle of sends. No hook runs; the child must notice, and deliver from memory.

    Without other threads: CPython itself can't start one in a child that was forked behind its
    back while others ran.
    """
    transport = make_transport(path, backend="none", fsync="no")
    notes, chance = Notes(returned), random.Random(3)
    libc: Any = ctypes.PyDLL(None)
    parent, pids = os.getpid(), []

    def fork(number: int, frame: object) -> None:
        pid = libc.fork()
        if pid == 0:
            send_and_leave(transport, url, returned, 2)
        pids.append(pid)

    signal.signal(signal.SIGALRM, fork)
    notes.write(send(transport, url))
    for _ in range(20):
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 4e-4))
        while not pids:
            notes.write(send(transport, url))
        assert reap(pids.pop()) == 0
    assert os.getpid() == parent
    transport.close()


@pytest.mark.evidence
def test_fork_in_c_inside_a_send_leaves_the_parent_whole(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Ingest() as ingest, Child(fork_in_c, path, returned.path, ingest.url) as parent:
        assert parent.join(60) == 0
        assert len(ingest.event_ids()) == len(set(ingest.event_ids())) == 40  # the children's
        assert sorted([*stored_ids(path), *ingest.event_ids()]) == sorted(returned.read())
    read_ledger(path)
    evidence.note(
        "a fork made in C, behind Python's back, inside a send",
        promise=5,
        tried="20 forks",
        events=len(returned.read()),
        lost=0,
        twice=0,
    )


# -- hooks that give up ---------------------------------------------------------------------------


def fork_in_the_middle_of_a_slow_commit(path: Path, returned: Path, took: Path, url: str) -> None:
    """A disk that stalls: the hook gives up, and the child stays off the file."""
    os.dup2(os.open(took.with_name("said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    transport = make_transport(path, backend="none")
    Notes(returned).write(send(transport, url))
    original, inside, let_go = EventQueue.insert, threading.Event(), threading.Event()

    def insert(self: EventQueue, rows: Any) -> Any:
        inside.set()
        let_go.wait(20)
        return original(self, rows)

    EventQueue.insert = insert
    writer = threading.Thread(target=lambda: Notes(returned).write(send(transport, url)))
    writer.start()
    inside.wait(10)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        EventQueue.insert = original
        send_and_leave(transport, url, returned, 3)
    Notes(took).write(str(time.monotonic() - started))
    let_go.set()
    writer.join(20)
    assert reap(pid) == 0
    Notes(returned).write(send(transport, url))
    transport.close()


def test_fork_inside_a_stalled_commit_gives_up_within_about_a_second(
    tmp_path: Path,
) -> None:
    path, returned, took = (
        tmp_path / "spool",
        Notes(tmp_path / "returned"),
        Notes(tmp_path / "took"),
    )
    with (
        Ingest() as ingest,
        Child(fork_in_the_middle_of_a_slow_commit, path, returned.path, took.path, ingest.url) as p,
    ):
        assert p.join() == 0
        assert len(ingest.event_ids()) == 3  # the child's, from memory
        check_nothing_lost(returned.read(), ingest, path)
    assert float(took.read()[0]) < 1.6
    assert len(returned.read()) == 6
    assert len(stored_ids(path)) == 3
    lines = [line for line in (tmp_path / "said").read_text().splitlines() if "forked" in line]
    assert len(lines) == 1
    assert str(path) in lines[0]


def fork_behind_a_held_gate(path: Path, returned: Path, took: Path, url: str) -> None:
    transport = make_transport(path, backend="none")
    writers = Writers(transport, url, returned, 2)
    for _ in range(3):
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            send_and_leave(transport, url, returned)
        Notes(took).write(str(time.monotonic() - started))
        Notes(took).write(str(pid))
    writers.stop()
    for pid in Notes(took).read()[1::2]:
        assert reap(int(pid)) == 0
    wait_until(lambda: transport.flusher.volatile == 0, what="the commit")
    transport.close()


def test_fork_while_a_stopped_process_holds_the_gate(tmp_path: Path) -> None:
    path, returned, took = (
        tmp_path / "spool",
        Notes(tmp_path / "returned"),
        Notes(tmp_path / "took"),
    )
    with Ingest() as ingest:
        send(make_transport(path, backend="none"), ingest.url, first := new_id())
        with Child(stop_with_the_gate, path, returned.path, ingest.url) as holder:
            state = Path(f"/proc/{holder.pid}/stat")
            wait_until(lambda: " T " in state.read_text(), what="the stop")
            arguments = path, returned.path, took.path, ingest.url
            with Child(fork_behind_a_held_gate, *arguments) as parent:
                took.wait_for(6)
                holder.resume()
                assert holder.join() == 0
                assert parent.join() == 0
        check_nothing_lost([first, *returned.read()], ingest, path)
        assert max(Counter([*readable_ids(path), *ingest.event_ids()]).values()) == 1
    assert max(float(seconds) for seconds in took.read()[::2]) < 1.6


def test_held_answer_does_not_hold_up_a_fork(tmp_path: Path) -> None:
    """A worker waits for the network at the fork: that takes no lock."""
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    gate = answers.Gate()
    with Ingest() as ingest:
        ingest.answer_with(answers.held(gate))
        with Child(fork_with_a_request_open, path, returned.path, ingest.url) as parent:
            gate.wait_until_held()
            returned.wait_for(3)
            gate.release()
            assert parent.join() == 0
        assert sorted(ingest.event_ids()) == sorted(returned.read()[:2])


def fork_with_a_request_open(path: Path, returned: Path, url: str) -> None:
    transport = make_transport(path)
    Notes(returned).write(send(transport, url))
    wait_until(lambda: transport.flusher.spool.leadership.is_held, what="leading")
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            Notes(returned).write(send(transport, url))
            code = 0
        finally:
            os._exit(code)
    assert time.monotonic() - started < 0.5
    assert reap(pid) == 0
    Notes(returned).write("forked")
    transport.close(10)


def test_closed_connections_are_not_kept_for_a_fork(tmp_path: Path) -> None:
    """uWSGI without hooks forks unseen: there each operation opens and closes."""
    spool = Spool(str(tmp_path / "spool"), fsync="no")
    before = count_connections()
    for number in range(20):
        assert spool.enqueue(event(number + 1), HERE)
        spool.finish()
    assert count_connections() <= before + 1  # what the next commit compares its file with


def count_connections() -> int:
    gc.collect()
    return sum(isinstance(one, Connection) for one in gc.get_objects())
