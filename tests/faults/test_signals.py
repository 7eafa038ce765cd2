"""Exceptions and sends that a signal brings into a send, a flush, a close."""

import contextlib
import fcntl
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from raven_spool.spool import Spool
from raven_spool.transport.spool import SpoolTransport
from tests.faults.children import Child, Notes
from tests.faults.events import (
    check_nothing_lost,
    count_repeats,
    make_transport,
    new_id,
    read_ledger,
    send,
    stored_ids,
)
from tests.support import evidence
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

NOWHERE = "http://127.0.0.1:9"  # backend "none": nobody goes there
THROWN = 3000
SOAK_THROWN = 100_000
THROWN_INTO_EACH = 300
SOAK_THROWN_INTO_EACH = 3_000
_INSTANTS = 400
_PROMPT_SECONDS = 1.0  # generous: a send takes well below a millisecond


class Thrown(Exception):
    """What RQ's and Celery's time limits raise, wherever the main thread happens to be."""


# -- exceptions at every instant ------------------------------------------------------------------


class Injector:
    """Acts at the n-th instant at which Python looks for signals: after a C call has returned,
    and at the start of a Python function."""

    def __init__(self, nth: int, act: Callable[[str], None], within: str = "") -> None:
        self.nth = nth
        self.act = act
        self.within = within  # only in modules whose path matches
        self.seen = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event not in ("call", "c_return") or self.seen >= self.nth:
            return
        if not re.search(self.within, frame.f_code.co_filename):
            return
        self.seen += 1
        if self.seen == self.nth:
            name = getattr(arg, "__name__", "")
            self.where = f"{event} {name} in {frame.f_code.co_name}:{frame.f_lineno}"
            sys.setprofile(None)
            self.act(self.where)

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)


def throw(where: str) -> None:
    raise Thrown(where)


def locks_held(path: Path) -> list[str]:
    """Which stay locked: the keeper may have one for a moment, to commit what was left."""
    held = []
    for name in ("write.lock", "queue.lock"):
        try:
            wait_until(lambda name=name: _is_free(path / name), timeout_seconds=0.3)
        except TimeoutError:
            held.append(name)
    return held


def _is_free(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def send_elsewhere(transport: SpoolTransport, returned: list[str]) -> float:
    """Seconds a send in another thread takes."""
    started = time.monotonic()
    thread = threading.Thread(target=lambda: returned.append(send(transport, NOWHERE)))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    return time.monotonic() - started


def throw_everywhere(path: Path, report: Path, closed: bool) -> None:
    """One send for each instant, from the first to the last there is."""
    transport = make_transport(path, backend="none")
    returned = [send(transport, NOWHERE)]
    notes = Notes(report)
    nth, reached = 0, True
    while reached:
        nth += 3 if closed else 1  # to open takes three times as many
        if closed:
            transport.flusher.spool.finish()
        injector, event_id = Injector(nth, throw), new_id()
        with contextlib.suppress(Thrown), injector.armed():
            returned.append(send(transport, NOWHERE, event_id))
        reached = injector.seen >= nth
        if held := locks_held(path):
            notes.write(f"{injector.where} leaves {held}")
        took = send_elsewhere(transport, returned)
        if took > _PROMPT_SECONDS or transport.flusher.spool.volatile:
            notes.write(f"{injector.where}: another thread's send took {took:.3f} s")
    transport.flusher.spool.finish()
    check_exactly_once(path, returned)
    notes.write(f"done {nth}")


def check_exactly_once(path: Path, returned: list[str]) -> None:
    counts = Counter(stored_ids(path))
    assert set(returned) <= set(counts)
    assert max(counts.values()) == 1
    assert read_ledger(path)["ready"] == len(counts)


@pytest.mark.parametrize("closed", [False, True], ids=["open", "opening"])
def test_exception_at_any_instant_leaves_no_lock_and_no_loss(in_memory: Path, closed: bool) -> None:
    report = Notes(in_memory / "report")
    with Child(throw_everywhere, in_memory / "spool", report.path, closed) as child:
        code = child.join(100)
    *troubles, done = report.read()
    assert not troubles, "\n".join([f"{len(troubles)} instants", *troubles[:20]])
    assert code == 0
    assert int(done.split()[1]) > 100  # it did go through a whole send


def throw_while_making(path: Path, report: Path) -> None:
    """Into the first send there is, each time of a new spool."""
    nth, reached = 0, True
    while reached:
        nth += 4  # there are hundreds
        transport = make_transport(path / str(nth), backend="none", send_timeout=1)
        injector, returned = Injector(nth, throw, within=r"raven_spool/spool/"), []
        with contextlib.suppress(Thrown), injector.armed():
            returned.append(send(transport, NOWHERE))
        reached = injector.seen >= nth
        returned.append(send(transport, NOWHERE))
        transport.flusher.spool.finish()
        try:
            check_exactly_once(path / str(nth), returned)
        except (AssertionError, OSError) as error:
            Notes(report).write(f"{injector.where}: {error}")
    Notes(report).write(f"done {nth}")


def test_exception_while_a_spool_is_made_leaves_none_that_nobody_finds(in_memory: Path) -> None:
    """The file was in use before `current` named it: all that one process sent went in there."""
    report = Notes(in_memory / "report")
    with Child(throw_while_making, in_memory / "spools", report.path) as child:
        assert child.join(100) == 0
    *troubles, done = report.read()
    assert not troubles, f"{len(troubles)} instants: " + "\n".join(troubles[:20])
    assert int(done.split()[1]) > 100


def throw_while_starting(path: Path, report: Path, url: str) -> None:
    """Into what starts a flusher: each time a new one, which must work with the next event."""
    nth, reached = 0, True
    while reached:
        nth += 1
        transport = make_transport(path / str(nth))
        injector = Injector(nth, throw, within=r"raven_spool/(flusher|backends|runtimes/\w+)\.py")
        with contextlib.suppress(Thrown), injector.armed():
            send(transport, url)
        reached = injector.seen >= nth
        send(transport, url)
        try:
            wait_until(lambda spool=transport: spool.stats()["ready"] == 0, timeout_seconds=3)
        except TimeoutError:
            Notes(report).write(injector.where)
        transport.close(1)
    Notes(report).write(f"done {nth}")


def test_exception_while_a_flusher_starts_does_not_keep_it_from_working(in_memory: Path) -> None:
    report = Notes(in_memory / "report")
    path = in_memory / "spools"
    with Ingest() as ingest, Child(throw_while_starting, path, report.path, ingest.url) as child:
        assert child.join(100) == 0
    *troubles, done = report.read()
    assert not troubles, "\n".join(troubles)
    assert int(done.split()[1]) > 20


# weakref's set too: thrown out of it, a visit stayed, and all later sends of its thread were taken
# for our own and dropped.
_DELIVERING = r"raven_spool/(flusher|drive|drain/|runtimes/)|_weakrefset"


def throw_while_delivering(path: Path, report: Path, url: str) -> None:
    """Into a send that delivers inline: nothing may stay in flight, and no lead be kept."""
    transport = make_transport(path, backend="inline")
    send(transport, url)
    nth, reached = 0, True
    while reached:
        nth += 1
        injector = Injector(nth, throw, within=_DELIVERING)
        with contextlib.suppress(Thrown), injector.armed():
            send(transport, url)
        reached = injector.seen >= nth
        transport.flusher.spool.forget_backoff()
        ended = threading.Thread(target=send, args=(transport, url))
        ended.start()
        ended.join(10)
        if ended.is_alive():
            Notes(report).write(f"{injector.where}: another thread's send hangs")
            os._exit(1)
        if transport.flusher.spool.leadership.is_held:
            Notes(report).write(f"{injector.where}: the lead is kept")
        if transport.stats()["ready"] > 0:
            transport.flusher.spool.forget_backoff()
            send(transport, url)
        if transport.stats()["ready"] > 0:
            Notes(report).write(f"{injector.where}: an event stays in flight")
        if transport.flusher.ignored > 0:
            Notes(report).write(f"{injector.where}: an event was taken for our own")
            transport.flusher.ignored = 0
    Notes(report).write(f"done {nth}")


def test_exception_in_an_inline_send_leaves_no_lead_and_nothing_in_flight(in_memory: Path) -> None:
    report = Notes(in_memory / "report")
    path = in_memory / "spool"
    with (
        Ingest() as ingest,
        Child(throw_while_delivering, path, report.path, ingest.url) as child,
    ):
        child.join(100)
    *troubles, done = report.read()
    assert not troubles, "\n".join(troubles[:20])
    assert int(done.split()[1]) > 100


def open_by_reading(spool: Spool) -> None:
    spool.finish()
    spool.stats()


def begin_anew(spool: Spool) -> None:
    spool._store.quarantine(spool._store.generation, 1.0)


def throw_into_steps(path: Path, report: Path, act: Callable[[Spool], None]) -> None:
    """Nobody else is at work, who would free by chance what was left locked."""
    transport, nth, reached = make_transport(path, backend="none", fsync="no"), 0, True
    spool = transport.flusher.spool
    while reached:
        nth += 1
        send(transport, NOWHERE)
        injector = Injector(nth, throw)
        with contextlib.suppress(Thrown), injector.armed():
            act(spool)
        reached = injector.seen >= nth
        if held := locks_held(path):
            Notes(report).write(f"{injector.where} leaves {held}")
    Notes(report).write(f"done {nth}")


@pytest.mark.parametrize("act", [Spool.finish, open_by_reading, begin_anew])
def test_exception_in_what_passes_the_gate_leaves_it_open(
    in_memory: Path, act: Callable[[Spool], None]
) -> None:
    report = Notes(in_memory / "report")
    with Child(throw_into_steps, in_memory / "spool", report.path, act) as child:
        assert child.join(100) == 0
    *troubles, done = report.read()
    assert not troubles, f"{len(troubles)}: " + "\n".join(troubles[:20])
    assert int(done.split()[1]) > 20


def throw_while_ending(path: Path, report: Path, url: str, verb: str) -> None:
    """Into a flush or a close: the next send must find all in order, and be delivered."""
    transport = make_transport(path)
    nth, reached = 0, True
    while reached:
        nth += 2
        send(transport, url)
        injector = Injector(
            nth, throw, within=r"raven_spool/(flusher|drive|drain/|runtimes/|spool/)"
        )
        with contextlib.suppress(Thrown), injector.armed():
            getattr(transport, verb)(5)
        # What waits is different each time: a loop that looks again gives ever more instants.
        reached = injector.seen >= nth and nth < _INSTANTS
        sent = threading.Thread(target=send, args=(transport, url))
        sent.start()
        sent.join(10)
        if sent.is_alive():
            Notes(report).write(f"{injector.where}: another thread's send hangs")
            os._exit(1)
        try:
            wait_until(lambda: transport.stats()["ready"] == 0, timeout_seconds=3)
        except TimeoutError:
            Notes(report).write(f"{injector.where}: nothing is delivered any more")
        if held := locks_held(path):
            Notes(report).write(f"{injector.where} leaves {held}")
    transport.close(5)
    if transport.flusher.spool.leadership.is_held:
        Notes(report).write("the lead is kept")
    Notes(report).write(f"done {nth}")


@pytest.mark.parametrize("verb", ["flush", "close"])
def test_exception_in_a_flush_or_close_keeps_nothing_from_working(
    tmp_path: Path, verb: str
) -> None:
    report, path = Notes(tmp_path / "report"), tmp_path / "spool"
    with (
        Ingest() as ingest,
        Child(throw_while_ending, path, report.path, ingest.url, verb) as child,
    ):
        child.join(100)
        assert count_repeats(ingest) == 0
    *troubles, done = report.read()
    assert not troubles, f"{len(troubles)}: " + "\n".join(troubles[:20])
    assert int(done.split()[1]) > 20


def throw_by_timer(path: Path, returned: Path, report: Path, count: int) -> None:
    """Real signals at random instants, as a time limit sends them."""
    transport = make_transport(path, backend="none", max_bytes="4GiB")  # none gives way
    notes, mine = Notes(report), Notes(returned)
    chance = random.Random(count)
    thrown, sending = 0, False

    def raise_it(number: int, frame: object) -> None:
        if sending:  # one that comes a little late must not hit the test itself
            raise Thrown

    send(transport, NOWHERE)  # the locks' files are there
    signal.signal(signal.SIGALRM, raise_it)
    while thrown < count:
        event_id = new_id()
        has_returned = False
        try:
            sending = True
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 1e-3))
            send(transport, NOWHERE, event_id)
            has_returned, sending = True, False
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Thrown:
            sending = False
            thrown += 1
        if has_returned:
            mine.write(event_id)
        elif held := locks_held(path):
            notes.write(f"leaves {held}")
    others: list[str] = []
    took = send_elsewhere(transport, others)
    mine.write(others[0])
    transport.flusher.spool.finish()
    notes.write(f"{took}")


def send_one(path: Path, returned: Path, url: str) -> None:
    transport = make_transport(path, backend="none")
    Notes(returned).write(send(transport, url))
    assert transport.flusher.spool.volatile == 0


def _throw_many(tmp_path: Path, count: int, seconds: float) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    report = Notes(tmp_path / "report")
    with Child(throw_by_timer, path, returned.path, report.path, count) as child:
        wait_until(lambda: report.read() or not child.is_alive, timeout_seconds=seconds)
        with Child(send_one, path, returned.path, NOWHERE) as other:
            assert other.join() == 0
        assert child.join() == 0
    *troubles, took = report.read()
    assert not troubles, f"{len(troubles)} times: {troubles[0]}"
    assert float(took) < _PROMPT_SECONDS
    check_exactly_once(path, returned.read())
    evidence.note(
        "exceptions raised by signals into the middle of sends, as task queues' time limits do",
        promise=4,
        tried=f"{count:,} exceptions",
        events=len(returned.read()),
        lost=0,
        twice=0,
        seen=f"the next thread's send took {float(took) * 1000:.1f} ms; no lock was left",
    )


def test_thousands_of_raising_signals_leave_no_lock_and_no_loss(tmp_path: Path) -> None:
    _throw_many(tmp_path, THROWN, 60)


@pytest.mark.soak
def test_a_hundred_thousand_raising_signals_leave_no_lock_and_no_loss(tmp_path: Path) -> None:
    _throw_many(tmp_path, SOAK_THROWN, 800)


def throw_into_verb(
    path: Path, url: str, verb: str, returned: Path, report: Path, count: int
) -> None:
    """Real signals into a flush, a close or a send that delivers, at random instants."""
    transport = make_transport(path, backend="inline" if verb == "send" else "thread")
    notes, mine = Notes(report), Notes(returned)
    chance = random.Random(count)
    thrown, acting = 0, False

    def raise_it(number: int, frame: object) -> None:
        if acting:
            raise Thrown

    signal.signal(signal.SIGALRM, raise_it)
    while thrown < count:
        mine.write(send(transport, url))
        try:
            acting = True
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 3e-3))
            if verb == "send":
                send(transport, url)
            else:
                getattr(transport, verb)(1)
            acting = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Thrown:
            acting = False
            thrown += 1
            if held := locks_held(path):
                notes.write(f"leaves {held}")
    mine.write(send_to(transport, url))
    assert transport.flush(30)
    transport.close(10)
    assert not transport.flusher.spool.leadership.is_held
    notes.write("done")


def send_to(transport: SpoolTransport, url: str) -> str:
    """From another thread."""
    ids: list[str] = []
    thread = threading.Thread(target=lambda: ids.append(send(transport, url)))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    return ids[0]


def _throw_into(tmp_path: Path, verb: str, count: int, seconds: float) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    report = Notes(tmp_path / "report")
    with Ingest() as ingest:
        arguments = path, ingest.url, verb, returned.path, report.path, count
        with Child(throw_into_verb, *arguments) as child:
            assert child.join(seconds) == 0
        *troubles, done = report.read()
        assert done == "done"
        assert not troubles, f"{len(troubles)} times: {troubles[0]}"
        check_nothing_lost(returned.read(), ingest, path)
        # One that is thrown out of its request may have been delivered by that.
        repeats = count_repeats(ingest)
        assert repeats <= (count if verb == "send" else 0)
    ledger = read_ledger(path)
    assert ledger["ready"] == ledger["dead"] == ledger["dropped"] == 0
    evidence.note(
        f"exceptions raised by signals into the middle of a {_WHAT[verb]}",
        promise=4,
        tried=f"{count:,} exceptions",
        events=len(returned.read()),
        lost=0,
        twice=repeats,
        seen="no lock and no lead was left",
    )


_WHAT = {"flush": "flush", "close": "close", "send": "send that delivers (inline)"}
VERBS = ["flush", "close", "send"]


@pytest.mark.parametrize("verb", VERBS)
def test_raising_signals_in_a_flush_a_close_or_an_inline_send_lose_nothing(
    tmp_path: Path, verb: str
) -> None:
    _throw_into(tmp_path, verb, THROWN_INTO_EACH, 60)


@pytest.mark.soak
@pytest.mark.parametrize("verb", VERBS)
def test_many_raising_signals_in_a_flush_a_close_or_an_inline_send_lose_nothing(
    tmp_path: Path, verb: str
) -> None:
    _throw_into(tmp_path, verb, SOAK_THROWN_INTO_EACH, 1100)


# -- sends inside sends ---------------------------------------------------------------------------


def send_from_handlers(path: Path, returned: Path, url: str) -> None:
    """A handler that sends, at random instants of sends; then one inside a destructor."""
    transport = make_transport(path, backend="none")
    ids: list[str] = []
    chance = random.Random(5)

    def also_send(number: int, frame: object) -> None:
        ids.append(send(transport, url))

    signal.signal(signal.SIGALRM, also_send)
    for _ in range(500):
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 3e-4))
        ids.append(send(transport, url))
    signal.setitimer(signal.ITIMER_REAL, 0)
    transport.flusher.spool.finish()
    for event_id in ids:
        Notes(returned).write(event_id)


def send_at_every_instant(path: Path, returned: Path, url: str) -> None:
    """A second send inside a send, at each instant at which Python runs signal handlers."""
    transport = make_transport(path, backend="none")
    ids = [send(transport, url)]
    nth, reached = 0, True
    while reached:
        nth += 3  # each third will do: there are hundreds
        injector = Injector(nth, lambda where: ids.append(send(transport, url)))
        with injector.armed():
            ids.append(send(transport, url))
        reached = injector.seen >= nth
    transport.flusher.spool.finish()
    for event_id in ids:
        Notes(returned).write(event_id)


@pytest.mark.parametrize("target", [send_from_handlers, send_at_every_instant])
def test_send_inside_a_send_hangs_never_and_loses_nothing(tmp_path: Path, target: Any) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Child(target, path, returned.path, NOWHERE) as child:
        assert child.join(60) == 0
    assert len(returned.read()) > 100
    check_exactly_once(path, returned.read())
    assert read_ledger(path)["accepted"] == len(returned.read())
