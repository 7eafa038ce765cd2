"""Transports and the life of a hub, gevent's and eventlet's, in a process that nobody patched."""

import importlib
import os
import threading
from types import SimpleNamespace

import pytest
import raven

from raven_spool.runtimes import loop as loop_runtime
from raven_spool.spool import native
from raven_spool.transport import EventletHTTPTransport, GeventedHTTPTransport
from tests.support import tool
from tests.support.answers import Gate, held
from tests.support.waiting import wait_until

PATIENCE_SECONDS = 20


@pytest.fixture(params=["gevent", "eventlet"])
def green(request):
    """What a test needs of the library, under one set of names."""
    library = importlib.import_module(request.param)
    is_gevent = request.param == "gevent"
    return SimpleNamespace(
        transport=GeventedHTTPTransport if is_gevent else EventletHTTPTransport,
        spawn=library.spawn,
        sleep=library.sleep,
        kill=library.kill,
        wait=(lambda task: task.get()) if is_gevent else (lambda task: task.wait()),
    )


@pytest.fixture
def client(green, ingest, path):
    return make_client(green, ingest, path)


def make_client(green, ingest, path, **options):
    transport = green.transport(spool_path=str(path), timeout=30, **options)
    return raven.Client(
        ingest.dsn(), transport=transport, install_sys_hook=False, raise_send_errors=True
    )


def capture(client):
    event_id = client.captureMessage("event")
    client.context.clear()
    return event_id


def transport_of(client):
    return client.remote.get_transport()


def until(green, is_so, what):
    """`wait_until`, in a hub that goes on."""
    done = []
    thread = threading.Thread(target=lambda: done.append(wait_until(is_so, what=what)))
    thread.start()
    while thread.is_alive():
        green.sleep(0.005)
    thread.join()
    assert done, what


def test_events_of_ten_greenlets_are_delivered_by_the_hub(green, client, ingest):
    tasks = [green.spawn(capture, client) for _ in range(10)]
    ids = [green.wait(task) for task in tasks]
    until(green, lambda: len(ingest.event_ids()) == 10, "the events")
    assert sorted(ingest.event_ids()) == sorted(ids)


def test_event_sent_before_the_hub_runs_is_delivered_once_it_does(green, client, ingest):
    event_id = capture(client)
    assert ingest.requests == []
    until(green, lambda: ingest.event_ids() == [event_id], "the event")


def test_flush_and_close_let_other_greenlets_go_on(green, client, ingest):
    gate = Gate()
    ingest.answer_with(held(gate))
    capture(client)
    passed = []

    def open_the_gate():
        until(green, lambda: len(ingest.requests) == 1, "the request")
        passed.append("others ran")
        gate.release()

    green.spawn(open_the_gate)
    assert transport_of(client).flush(PATIENCE_SECONDS)
    assert passed
    capture(client)
    transport_of(client).close(PATIENCE_SECONDS)
    assert len(ingest.event_ids()) == 2
    assert not transport_of(client).flusher.spool.leadership.is_held


def test_flush_in_a_native_thread_waits_for_the_hub(green, client, ingest):
    capture(client)
    flushed = []
    thread = threading.Thread(
        target=lambda: flushed.append(transport_of(client).flush(PATIENCE_SECONDS))
    )
    thread.start()
    while thread.is_alive():
        green.sleep(0.005)
    assert flushed == [True]


def test_many_greenlets_that_close_at_once_lock_nobody_up(green, client, ingest):
    ids = [capture(client) for _ in range(20)]
    closing = [green.spawn(transport_of(client).close, PATIENCE_SECONDS) for _ in range(20)]
    for task in closing:
        green.wait(task)
    assert sorted(ingest.event_ids()) == sorted(ids)


def test_killed_worker_is_replaced_with_the_next_send(green, client, ingest):
    gate = Gate()
    ingest.answer_with(held(gate))
    first = capture(client)
    until(green, lambda: len(ingest.requests) == 1, "the request")
    (runtime,) = transport_of(client).flusher._runtimes.values()
    for task in list(runtime._tasks.values()):
        green.kill(task)
    gate.release()
    second = capture(client)
    assert transport_of(client).flush(PATIENCE_SECONDS)
    assert {first, second} == set(ingest.event_ids())


def test_hub_that_its_program_has_left_lets_other_processes_drain(green, ingest, path, monkeypatch):
    monkeypatch.setattr(loop_runtime, "_WATCH_SECONDS", 0.05)
    monkeypatch.setattr(loop_runtime, "_PATIENCE_SECONDS", 0.1)
    # Else a second attempt may be under way when the hub is left, and that is given its timeout.
    client = make_client(green, ingest, path, wait=lambda state: 60.0)
    ingest.stop()
    capture(client)
    until(green, lambda: transport_of(client).flusher.spool.get(1).attempts == 1, "an attempt")
    ingest.start()
    assert tool.run("flush", "--spool", path, "--quiet").returncode == 0
    assert len(ingest.event_ids()) == 1
    capture(client)  # and it comes back
    until(green, lambda: len(ingest.event_ids()) == 2, "the hub's delivery")


def test_transport_that_was_closed_delivers_again(green, client, ingest):
    for _ in range(3):
        capture(client)
        transport_of(client).close(PATIENCE_SECONDS)
    assert len(ingest.event_ids()) == 3


def test_event_of_a_forked_child_is_delivered_by_its_parent(green, client, ingest):
    """eventlet's hub, and gevent's unless it is told, can't be used in a child."""
    first = capture(client)
    assert transport_of(client).flush(PATIENCE_SECONDS)
    child = os.fork()
    if not child:
        try:
            capture(client)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert transport_of(client).flush(PATIENCE_SECONDS)
    assert len(ingest.event_ids()) == 2
    assert ingest.event_ids()[0] == first


@pytest.mark.parametrize("green", ["gevent"], indirect=True)
def test_child_that_gevent_forked_delivers_by_itself(green, client, ingest):
    import gevent.os

    capture(client)
    transport_of(client).close(PATIENCE_SECONDS)
    child = gevent.os.fork()
    if not child:
        code = 1
        try:
            capture(client)
            code = 0 if transport_of(client).flush(PATIENCE_SECONDS) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(ingest.event_ids()) == 2


def test_native_thread_without_a_hub_is_given_none(green, client, ingest):
    from eventlet import hubs
    from gevent._hub_local import get_hub_if_exists

    seen = []
    over = native.make_lock()
    over.acquire()

    def run():
        capture(client)
        seen.append(get_hub_if_exists() or getattr(hubs._threadlocal, "hub", None))
        over.release()

    native.start_thread(run)
    assert over.acquire(timeout=PATIENCE_SECONDS)
    assert seen == [None]
    assert transport_of(client).flush(PATIENCE_SECONDS)
