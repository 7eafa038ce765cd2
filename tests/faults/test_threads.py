"""Hundreds of threads that send at once, and exceptions that other threads raise in them."""

import contextlib
import ctypes
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.faults.children import Child, Notes
from tests.faults.events import check_nothing_lost, count_repeats, make_transport, read_ledger, send
from tests.faults.test_signals import Thrown, check_exactly_once, locks_held, send_elsewhere
from tests.support import evidence
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

NOWHERE = "http://127.0.0.1:9"  # backend "none": nobody goes there
THREADS = 500
_EACH_SENDS = 4
_BOUND_SECONDS = 5.0  # generous: 500 threads share two processors
THROWN = 1000
SOAK_THROWN = 15_000  # more would fill a spool
_PROMPT_SECONDS = 1.0


def count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def send_from_many_threads(path: Path, returned: Path, report: Path, url: str) -> None:
    transport = make_transport(path, send_timeout=5)
    send(transport, url)
    begin, ids, took = threading.Barrier(THREADS), [], []

    def run() -> None:
        begin.wait(30)
        for _ in range(_EACH_SENDS):
            started = time.monotonic()
            ids.append(send(transport, url))
            took.append(time.monotonic() - started)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    before = count_threads()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert transport.flusher.volatile == 0
    Path(returned).write_text("\n".join(ids))
    assert transport.flush(60)
    transport.close(10)
    wait_until(lambda: count_threads() <= before + 2, what="the end of threads")
    Notes(report).write(str(max(took)))


@pytest.mark.evidence
def test_five_hundred_threads_that_send_at_once_lose_nothing(tmp_path: Path) -> None:
    path, returned, report = (tmp_path / name for name in ("spool", "returned", "report"))
    with Ingest() as ingest:
        with Child(send_from_many_threads, path, returned, report, ingest.url) as child:
            assert child.join(100) == 0
        ids = Notes(returned).read()
        worst = float(Notes(report).read()[0])
        assert len(set(ids)) == THREADS * _EACH_SENDS
        check_nothing_lost(ids, ingest, path)
        assert count_repeats(ingest) == 0
        assert read_ledger(path)["delivered"] == len(ids) + 1
    assert worst < _BOUND_SECONDS
    evidence.note(
        "500 threads that send at once",
        promise=5,
        tried=f"{len(ids):,} sends",
        events=len(ids),
        lost=0,
        twice=0,
        seen=f"worst send {worst:.2f} s; as many threads afterwards as before",
    )


class Sender(threading.Thread):
    """Sends until told to stop, whatever is raised in it."""

    def __init__(self, path: Path, returned: list[str]) -> None:
        super().__init__(daemon=True)
        self._transport = make_transport(path, backend="none", send_timeout=1)
        self._returned = returned
        self.stopping = False
        self.thrown = 0

    def run(self) -> None:
        while not self.stopping:
            with contextlib.suppress(Thrown):
                self._send_until_thrown()

    def _send_until_thrown(self) -> None:
        try:
            while not self.stopping:
                self._returned.append(send(self._transport, NOWHERE))
        except Thrown:
            self.thrown += 1

    def throw(self) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self.ident or 0), ctypes.py_object(Thrown)
        )


def throw_into_threads(path: Path, returned: Path, report: Path, count: int) -> None:
    """As task queues cut jobs that run in threads (Dramatiq's time limits)."""
    ids: list[str] = []
    thrown, chance, senders = 0, random.Random(count), [Sender(path, ids) for _ in range(3)]
    for sender in senders:
        sender.start()
    while thrown + sum(sender.thrown for sender in senders) < count:
        number = chance.randrange(len(senders))
        if not senders[number].is_alive():  # one that met it outside of its send has ended
            thrown += senders[number].thrown
            senders[number] = Sender(path, ids)
            senders[number].start()
        senders[number].throw()
        time.sleep(chance.uniform(0, 0.002))
    for sender in senders:
        sender.stopping = True
        sender.join(20)
        assert not sender.is_alive()
    transport = make_transport(path, backend="none")
    took = send_elsewhere(transport, ids)
    transport.flusher.spool.finish()
    Path(returned).write_text("\n".join(ids))
    held = locks_held(path)
    thrown += sum(sender.thrown for sender in senders)
    Notes(report).write(f"{took} {thrown} {','.join(held)}")


def _throw_many(tmp_path: Path, count: int) -> None:
    path, returned, report = (tmp_path / name for name in ("spool", "returned", "report"))
    with Child(throw_into_threads, path, returned, report, count) as child:
        assert child.join(400) == 0
    took, thrown, *held = Notes(report).read()[0].split()
    assert not held
    assert float(took) < _PROMPT_SECONDS
    ids = Notes(returned).read()
    check_exactly_once(path, ids)
    evidence.note(
        "exceptions raised in sending threads by another (PyThreadState_SetAsyncExc)",
        promise=4,
        tried=f"{int(thrown):,} exceptions",
        events=len(ids),
        lost=0,
        twice=0,
        seen=f"the next thread's send took {float(took) * 1000:.1f} ms; no lock was left",
    )


def test_exceptions_raised_in_sending_threads_leave_no_lock_and_no_loss(tmp_path: Path) -> None:
    _throw_many(tmp_path, THROWN)


@pytest.mark.soak
def test_many_exceptions_raised_in_sending_threads_leave_no_lock(tmp_path: Path) -> None:
    _throw_many(tmp_path, SOAK_THROWN)
