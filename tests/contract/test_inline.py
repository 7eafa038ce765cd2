"""The inline transports over a real server: the sending thread delivers, come what may."""

import contextlib
import logging
import os
import signal
import threading
import time

import pytest
import raven
from raven.handlers.logging import SentryHandler

from raven_spool import SpoolTransport
from raven_spool.transport import HTTPTransport, RequestsHTTPTransport, ThreadedHTTPTransport
from tests.faults.children import Child
from tests.support.answers import Gate, held, slow, status, too_many
from tests.support.waiting import wait_until

BOTH = pytest.mark.parametrize("cls", [HTTPTransport, RequestsHTTPTransport])


@pytest.fixture
def spool_path(tmp_path):
    return str(tmp_path / "spool")


def make_client(ingest, transport, **options):
    return raven.Client(ingest.dsn(), transport=transport, install_sys_hook=False, **options)


def capture(client, text="event"):
    event_id = client.captureMessage(text)
    client.context.clear()
    return event_id


@contextlib.contextmanager
def signalled_when_held(gate, handle):
    """`handle` is called in the main thread while the server holds a request."""

    def interrupt():
        gate.wait_until_held()
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    helper = threading.Thread(target=interrupt)
    try:
        helper.start()
        yield
        helper.join(10)
    finally:
        signal.signal(signal.SIGUSR1, before)


@BOTH
def test_inline_send_returns_when_the_server_has_the_event(ingest, spool_path, cls):
    client = make_client(ingest, cls(spool_path=spool_path))
    for _ in range(5):
        event_id = capture(client)
        assert ingest.event_ids()[-1] == event_id
    transport = client.remote.get_transport()
    assert transport.stats()["delivered"] == 5
    assert not transport.flusher.spool.leadership.is_held


@BOTH
def test_inline_send_keeps_its_connection(ingest, spool_path, cls):
    client = make_client(ingest, cls(spool_path=spool_path))
    for _ in range(5):
        capture(client)
    assert len({seen.connection for seen in ingest.requests}) == 1


def count_new_threads(dsn, path, answer):
    """Of a process of its own: other tests' spools have threads that come and go."""
    before = threads()
    capture(
        raven.Client(
            dsn, transport=HTTPTransport(spool_path=path, fsync="no"), install_sys_hook=False
        )
    )
    # One that took a lock apart may be about to end; a worker stays for five seconds.
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: threads() <= before, timeout_seconds=1)
    answer.write_text(str(len(threads() - before)))


def threads():
    return set(os.listdir("/proc/self/task"))


def test_inline_starts_no_worker(ingest, spool_path, tmp_path):
    with Child(count_new_threads, ingest.dsn(), spool_path, tmp_path / "answer") as child:
        assert child.join() == 0
    assert len(ingest.event_ids()) == 1
    assert (tmp_path / "answer").read_text() == "0"


def test_inline_send_delivers_older_ones_after_its_own(ingest, spool_path):
    waiting = make_client(ingest, SpoolTransport(spool_path=spool_path, backend="none"))
    older = [capture(waiting) for _ in range(40)]
    own = capture(make_client(ingest, HTTPTransport(spool_path=spool_path)))
    assert ingest.event_ids() == [own, *older]


def test_inline_send_takes_its_timeout_at_most_with_a_backlog_and_a_slow_server(ingest, spool_path):
    waiting = make_client(ingest, SpoolTransport(spool_path=spool_path, backend="none"))
    for _ in range(40):
        capture(waiting)
    ingest.answer_by(lambda seen: slow(0.2))
    client = make_client(ingest, HTTPTransport(spool_path=spool_path, timeout=1))
    own = capture(client)
    assert ingest.event_ids()[0] == own
    assert 1 < len(ingest.event_ids()) <= 4, "no new one is begun in the second half"


@pytest.mark.parametrize(
    "answer", [status(500), status(403), too_many("60")], ids=["500", "403", "429"]
)
def test_inline_send_to_a_held_destination_asks_nobody(ingest, spool_path, answer):
    ingest.answer_with(answer)
    client = make_client(ingest, HTTPTransport(spool_path=spool_path, wait=lambda state: 60))
    capture(client)
    for _ in range(3):
        capture(client)
    assert len(ingest.requests) == 1
    assert client.remote.get_transport().stats()["ready"] == 4


def test_inline_flush_drives_workers_and_leaves_none(ingest, spool_path):
    ingest.stop()
    client = make_client(ingest, HTTPTransport(spool_path=spool_path, timeout=1))
    ids = [capture(client) for _ in range(20)]
    ingest.start()
    transport = client.remote.get_transport()
    assert transport.flush(10)
    assert sorted(ingest.event_ids()) == sorted(ids)
    assert transport.flusher._runtimes == {}
    own = capture(client)
    assert ingest.event_ids()[-1] == own, "inline again"


def test_inline_and_threaded_transports_share_a_spool(ingest, spool_path):
    inline = make_client(ingest, HTTPTransport(spool_path=spool_path))
    threaded = make_client(ingest, ThreadedHTTPTransport(spool_path=spool_path))
    ids = [capture(client) for _ in range(20) for client in (inline, threaded)]
    assert inline.remote.get_transport().flush(10)
    assert sorted(ingest.event_ids()) == sorted(ids)


def test_threaded_send_beside_an_inline_one_does_not_wait_for_the_network(ingest, spool_path):
    make = {"spool_path": spool_path, "timeout": 5}
    capture(make_client(ingest, HTTPTransport(**make)))
    gate = Gate()
    ingest.answer_by(lambda seen: held(gate))
    threaded = make_client(ingest, ThreadedHTTPTransport(**make))
    capture(threaded)  # returns, though no answer comes before the gate opens
    gate.wait_until_held()
    gate.release()
    assert threaded.remote.get_transport().flush(10)


def test_threads_that_send_inline_deliver_each_event_once(ingest, spool_path):
    ids: list[str] = []

    def work():
        client = make_client(ingest, HTTPTransport(spool_path=spool_path))
        ids.extend(capture(client) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert SpoolTransport(spool_path=spool_path).flush(10)
    assert sorted(ingest.event_ids()) == sorted(ids)
    assert len(set(ids)) == 80


def test_signal_handlers_send_in_the_middle_of_an_inline_one_is_kept(ingest, spool_path):
    client = make_client(ingest, HTTPTransport(spool_path=spool_path))
    gate, inner = Gate(), []
    ingest.answer_with(held(gate))

    def handle(*_):
        inner.append(client.captureMessage("from the handler"))
        gate.release()

    with signalled_when_held(gate, handle):
        own = capture(client, "interrupted")
    assert ingest.event_ids()[0] == own
    capture(client)
    assert client.remote.get_transport().flush(10)
    assert inner[0] in ingest.event_ids()
    assert len(set(ingest.event_ids())) == len(ingest.event_ids()) == 3


class TimeLimit(Exception):
    """As those of RQ and Celery."""


@BOTH
@pytest.mark.parametrize("limit", [TimeLimit, KeyboardInterrupt, TimeoutError, OSError, ValueError])
def test_exception_thrown_into_the_exchange_comes_out_and_leaves_nothing_in_flight(
    ingest, spool_path, cls, limit
):
    client = make_client(ingest, cls(spool_path=spool_path), raise_send_errors=True)
    capture(client)
    gate = Gate()
    ingest.answer_with(held(gate))

    def handle(*_):
        raise limit("too long")

    with signalled_when_held(gate, handle), pytest.raises(limit, match="too long"):
        capture(client, "cut")
    gate.release()
    transport = client.remote.get_transport()
    assert transport.stats()["ready"] == 1
    assert not transport.flusher.spool.leadership.is_held
    assert transport.flush(10)
    assert len(set(ingest.event_ids())) == 2


def test_what_the_http_library_logs_does_not_come_back(ingest, spool_path):
    client = make_client(ingest, RequestsHTTPTransport(spool_path=spool_path))
    handler = SentryHandler(client, level=logging.DEBUG)
    logger = logging.getLogger("urllib3")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        capture(client)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert len(ingest.event_ids()) == 1
    assert client.remote.get_transport().stats()["ready"] == 0
    assert client.remote.get_transport().flusher.ignored > 0


def test_inline_send_while_another_process_leads_returns_after_the_commit(ingest, spool_path):
    from raven_spool.spool import Spool

    other = Spool(spool_path)
    assert other.leadership.take()
    try:
        client = make_client(ingest, HTTPTransport(spool_path=spool_path))
        capture(client)
        assert ingest.requests == []
    finally:
        other.leadership.let_go()
        other.finish()
    capture(client)
    assert len(ingest.event_ids()) == 2


def test_inline_send_from_memory_while_no_disk_takes_events(ingest, tmp_path):
    path = tmp_path / "a file"
    path.write_text("in the way")
    client = make_client(ingest, HTTPTransport(spool_path=str(path)))
    event_id = capture(client)
    assert ingest.event_ids() == [event_id]


def test_forked_child_sends_inline_too(ingest, spool_path):
    client = make_client(ingest, HTTPTransport(spool_path=spool_path))
    capture(client)
    child = os.fork()
    if child == 0:
        capture(client)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    capture(client)
    assert len(set(ingest.event_ids())) == 3
    assert len(ingest.event_ids()) == 3


@pytest.mark.parametrize(
    "environ",
    [{"LAMBDA_TASK_ROOT": "/var/task"}, {"CURRENT_VERSION_ID": "1", "INSTANCE_ID": "2"}],
    ids=["lambda", "appengine"],
)
def test_auto_is_inline_where_raven_sends_synchronously(ingest, spool_path, environ, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    event_id = capture(make_client(ingest, SpoolTransport(spool_path=spool_path)))
    assert ingest.event_ids() == [event_id]


def test_close_beside_a_send_that_hangs_returns_and_sends_nothing_twice(ingest, spool_path):
    client = make_client(ingest, HTTPTransport(spool_path=spool_path, timeout=5))
    gate = Gate()
    ingest.answer_with(held(gate))
    sender = threading.Thread(target=capture, args=(client,))
    sender.start()
    gate.wait_until_held()
    began = time.monotonic()
    client.remote.get_transport().close(0.2)
    assert time.monotonic() - began < 3
    own = capture(client)
    gate.release()
    sender.join(10)
    wait_until(lambda: len(ingest.event_ids()) >= 1)
    assert client.remote.get_transport().flush(10)
    assert own in ingest.event_ids()
    assert len(set(ingest.event_ids())) == len(ingest.event_ids()) == 2
