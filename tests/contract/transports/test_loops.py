"""What a worker that sleeps hears, and what a loop does beside it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.contract.transports.application import Application
from tests.contract.transports.choosing import transports_in_a_loop, transports_that_deliver_behind
from tests.support.answers import slow
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

PROMPT_SECONDS = 3.0  # an idle leader looks by itself after 5 s, a parked worker after 600
WATCHED_SECONDS = 0.2
REST_SECONDS = 0.02  # of work in that time


@transports_in_a_loop
def test_the_loop_itself_delivers(app: Application, ingest: Ingest, path: Path) -> None:
    """Nothing but the transport's own runtime is started, not by `flush` either; "auto" finds it
    where threading is patched."""
    app.open(ingest.dsn(), path)
    app.capture()
    ingest.wait_for(1)
    app.capture()
    assert app.flush()
    assert app.list_runtimes() == [app.row.runtime]


@pytest.mark.parametrize("options", [{}, {"linger_seconds": 0.0}], ids=["leading", "parking"])
@transports_that_deliver_behind
def test_a_wake_before_a_wait_is_not_lost(
    app: Application, ingest: Ingest, path: Path, options: dict[str, float]
) -> None:
    """Captured at any moment on the worker's way to its wait, leading or parked: it hears it."""
    # The answer to one event moves past the capture of the next in steps of half a millisecond.
    steps = count()
    ingest.answer_by(lambda seen: slow(next(steps) % 16 * 0.0005))
    app.open(ingest.dsn(), path, **options)
    ids = app.capture()
    ingest.wait_for(1)
    for number in range(2, 50):
        ids += app.capture()
        ingest.wait_for(number, PROMPT_SECONDS)
    assert ingest.event_ids() == ids


@transports_in_a_loop
def test_a_native_thread_captures_beside_the_loop(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """A capture in a native thread waits for the spool: the loop goes on; delivered by the loop."""
    app.open(ingest.dsn(), path, send_timeout=60)
    ids = app.capture()
    ingest.wait_for(1)
    with held_for_writing(path):
        app.begin_capture_beside(3)
        for _ in range(50):
            assert app.list_captured_beside() == []  # the loop says so
    ingest.wait_for(4)  # and nobody stirs the loop
    wait_until(lambda: len(app.list_captured_beside()) == 3, what="the thread's captures")
    assert sorted(ingest.event_ids()) == sorted(ids + app.list_captured_beside())


@transports_in_a_loop
def test_a_native_thread_that_captures_first_loses_nothing(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """A native thread, under patching with a hub of its own that nobody runs, captures before the
    loop does: what the loop captures brings it along."""
    app.open(ingest.dsn(), path)
    app.begin_capture_beside(2)
    wait_until(lambda: len(app.list_captured_beside()) == 2, what="the thread's captures")
    early, late = app.list_captured_beside(), []

    def are_delivered() -> bool:
        late.extend(app.capture())
        return set(early) <= set(ingest.event_ids())

    wait_until(are_delivered, what="the thread's events")
    assert app.flush()
    assert sorted(ingest.event_ids()) == sorted(early + late)


@transports_in_a_loop
def test_a_loop_with_nothing_to_do_rests(app: Application, ingest: Ingest, path: Path) -> None:
    """Idle after a delivery, after a flush and after `close`: no processor time is used."""
    app.open(ingest.dsn(), path)
    app.capture()
    ingest.wait_for(1)
    check_that_it_rests(app)
    assert app.flush()
    check_that_it_rests(app)
    app.close()
    check_that_it_rests(app)


def check_that_it_rests(app: Application) -> None:
    wait_until(lambda: app.watch_work(WATCHED_SECONDS) < REST_SECONDS, what="rest")


@contextmanager
def held_for_writing(path: Path) -> Iterator[None]:
    """Nobody else commits."""
    with (path / "write.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
