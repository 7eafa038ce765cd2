"""SpoolTransport as raven 6.10.0 uses it: as a class, as an instance, with a DSN's options."""

import fcntl
import json
import logging
import os
import threading
import uuid
import zlib

import pytest
import raven
import requests
from raven.handlers.logging import SentryHandler

from raven_spool import ConfigurationError, SpoolTransport, flusher
from raven_spool.spool import Spool
from tests.support.answers import Gate, held, ok, status
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until


@pytest.fixture
def ingest():
    with Ingest() as server:
        yield server


@pytest.fixture
def spool_path(tmp_path):
    return str(tmp_path / "spool")


def make_client(dsn, transport, **options):
    return raven.Client(dsn, transport=transport, install_sys_hook=False, **options)


def capture(client, number=1, what="event"):
    ids = []
    for index in range(number):
        ids.append(client.captureMessage(f"{what} {index}"))
        client.context.clear()
    return ids


def send_raw(transport, dsn, message="by hand"):
    client = make_client(dsn, SpoolTransport)
    event_id = uuid.uuid4().hex
    body = zlib.compress(json.dumps({"event_id": event_id, "message": message}).encode())
    auth = f"Sentry sentry_version=6, sentry_client=x/1, sentry_key={client.remote.public_key}"
    headers = {"X-Sentry-Auth": auth, "Content-Encoding": "deflate"}
    return event_id, transport.send(client.remote.store_endpoint, body, headers)


def test_class_with_options_in_the_dsn_spools_and_delivers(ingest, spool_path):
    client = make_client(f"{ingest.dsn()}?spool_path={spool_path}&concurrency=1", SpoolTransport)
    ids = capture(client, 20)
    assert client.remote.get_transport().flush(10)
    assert ingest.event_ids() == ids
    assert Spool.exists(spool_path)


def test_instance_takes_options_from_the_dsn_that_it_was_not_given(ingest, spool_path):
    configured = SpoolTransport(spool_path=spool_path, timeout=3)
    client = make_client(f"{ingest.dsn()}?timeout=9&concurrency=2", configured)
    capture(client)
    options = client.remote.get_transport().options
    assert (options.spool_path, options.timeout, options.concurrency) == (spool_path, 3.0, 2)


def test_transports_of_one_path_share_spool_and_flusher(ingest, spool_path):
    threads, descriptors = [], []
    for _ in range(200):
        client = make_client(ingest.dsn(), SpoolTransport(spool_path=spool_path))
        capture(client)
        threads.append(len(os.listdir("/proc/self/task")))
        descriptors.append(len(os.listdir("/proc/self/fd")))
    assert client.remote.get_transport().flush(10)
    assert len(ingest.event_ids()) == 200
    # Workers come and go, and with each a connection, a thread and descriptors of the ingest. One
    # leaked per client would be 200.
    assert max(threads) - min(threads) <= 40
    assert max(descriptors) - min(descriptors) <= 60
    assert len(flusher._flushers) == 1


def test_send_returns_the_event_id_and_needs_a_key(ingest, spool_path):
    transport = SpoolTransport(spool_path=spool_path)
    event_id, returned = send_raw(transport, ingest.dsn())
    assert event_id == returned
    with pytest.raises(ConfigurationError, match="key"):
        transport.send(f"{ingest.url}/api/1/store/", b"{}", {})
    with pytest.raises(ConfigurationError, match="endpoint"):
        transport.send(ingest.url, b"{}", {"X-Sentry-Auth": "Sentry sentry_key=k"})


def test_delivered_request_is_signed_afresh_and_travels_as_gzip(ingest, spool_path):
    client = make_client(
        ingest.dsn(key="thekey", secret="thesecret"), SpoolTransport(spool_path=spool_path)
    )
    (event_id,) = capture(client)
    assert client.remote.get_transport().flush(10)
    (seen,) = ingest.requests
    assert seen.headers["content-encoding"] == "gzip"
    assert "sentry_key=thekey" in seen.headers["x-sentry-auth"]
    assert "sentry_secret=thesecret" in seen.headers["x-sentry-auth"]
    assert "sentry_client=raven-python/6.10.0" in seen.headers["x-sentry-auth"]
    assert json.loads(seen.body)["event_id"] == event_id


def test_nothing_is_touched_at_construction(spool_path):
    SpoolTransport(spool_path=spool_path)
    assert not os.path.exists(spool_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"timeout": 0}, ["timeout", "0", "above 0"]),
        ({"concurrency": 1000}, ["concurrency", "1000", "1 to 64"]),
        ({"fsync": 7}, ["fsync", "7", "always, everysec, no"]),
        ({"verify_ssl": 5}, ["verify_ssl", "5"]),
        ({"on_dead": 3}, ["on_dead", "3", "callable"]),
        ({"spool_path": 3}, ["spool_path", "3"]),
        ({"surprise": 1}, ["surprise", "unknown option"]),
    ],
)
def test_bad_keyword_raises_and_names_it(given, words):
    with pytest.raises(ConfigurationError) as caught:
        SpoolTransport(**given)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("timeout=abc", ["timeout", "abc", "number of seconds"]),
        ("fsync=sometimes", ["fsync", "sometimes", "everysec"]),
        ("surprise=1", ["surprise", "unknown option"]),
        ("max_bytes=9", ["max_bytes", "9"]),
    ],
)
def test_bad_string_logs_once_and_the_event_is_sent(ingest, spool_path, caplog, query, words):
    client = make_client(f"{ingest.dsn()}?spool_path={spool_path}&{query}", SpoolTransport)
    ids = capture(client, 2)
    assert client.remote.get_transport().flush(10)
    assert sorted(ingest.event_ids()) == sorted(ids)
    (record,) = [
        r for r in caplog.records if r.name == "raven.spool" and r.levelno == logging.ERROR
    ]
    assert all(word in record.getMessage() for word in words)


def test_async_send_calls_success_at_the_commit(spool_path):
    called = []
    transport = SpoolTransport(spool_path=spool_path, backend="none")
    headers = {"X-Sentry-Auth": "Sentry sentry_key=k"}
    url = "http://127.0.0.1:9/api/1/store/"
    transport.async_send(url, b"{}", headers, lambda: called.append("ok"), called.append)
    assert called == ["ok"]
    assert transport.stats()["ready"] == 1


def test_raise_send_errors_hears_nothing_of_a_dead_server(spool_path):
    client = make_client(
        "http://k:s@127.0.0.1:9/1", SpoolTransport(spool_path=spool_path), raise_send_errors=True
    )
    capture(client, 3)
    assert client.remote.get_transport().stats()["ready"] == 3


def test_raise_send_errors_hears_of_what_can_never_be_sent(spool_path, monkeypatch):
    client = make_client(
        "http://k:s@127.0.0.1:9/1", SpoolTransport(spool_path=spool_path), raise_send_errors=True
    )
    monkeypatch.setattr(client.remote, "store_endpoint", "http://127.0.0.1:9/elsewhere")
    with pytest.raises(ConfigurationError):
        client.captureMessage("nowhere to go")


def test_our_own_log_lines_and_the_http_librarys_do_not_come_back(ingest, spool_path):
    ingest.answer_with(status(503))
    client = make_client(ingest.dsn(), SpoolTransport(spool_path=spool_path, sender="requests"))
    handler = SentryHandler(client)
    handler.setLevel(logging.DEBUG)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        logging.getLogger("app").error("only this")
        transport = client.remote.get_transport()
        wait_until(lambda: len(ingest.requests) >= 2, what="a retry")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    names = {json.loads(seen.body).get("logger") for seen in ingest.requests}
    assert not {name for name in names if name and name.startswith(("raven", "urllib3"))}
    assert transport.stats()["accepted"] < 10


def test_callbacks_run_for_what_was_delivered_and_what_died(ingest, spool_path):
    delivered, dead = [], []
    ingest.answer_with(ok(), status(400, [("X-Sentry-Error", "no good")]))
    client = make_client(
        ingest.dsn(),
        SpoolTransport(
            spool_path=spool_path,
            concurrency=1,
            on_delivered=lambda event: delivered.append(event.event_id),
            on_dead=lambda event, reason: dead.append((event.event_id, reason)),
        ),
    )
    first, second = capture(client, 2)
    assert client.remote.get_transport().flush(10)
    wait_until(lambda: len(delivered) + len(dead) == 2, what="both callbacks")
    assert delivered == [first]
    assert dead == [(second, "HTTP 400 Bad Request: no good")]


def test_close_delivers_then_the_next_event_starts_anew(ingest, spool_path):
    client = make_client(ingest.dsn(), SpoolTransport(spool_path=spool_path))
    capture(client, 5)
    client.remote.get_transport().close(10)
    assert len(ingest.event_ids()) == 5
    capture(client, 5)
    assert ingest.wait_for(10)


def test_close_ends_within_its_time_when_the_server_hangs(ingest, spool_path):
    gate, closed = Gate(), threading.Event()
    client = make_client(ingest.dsn(), SpoolTransport(spool_path=spool_path))
    ingest.answer_with(held(gate))
    capture(client, 3)
    gate.wait_until_held()
    transport = client.remote.get_transport()
    closer = threading.Thread(target=lambda: (transport.close(0.3), closed.set()))
    closer.start()
    assert closed.wait(5)
    closer.join()
    gate.release()
    stats = transport.stats()
    assert stats["ready"] + stats["delivered"] == 3


def test_flush_is_false_while_the_server_is_away(spool_path):
    client = make_client("http://k:s@127.0.0.1:9/1", SpoolTransport(spool_path=spool_path))
    capture(client, 2)
    assert client.remote.get_transport().flush(0.2) is False
    assert client.remote.get_transport().stats()["ready"] == 2


def test_no_secret_in_repr_log_or_error(ingest, spool_path, caplog):
    caplog.set_level(logging.DEBUG)
    ingest.answer_with(status(401, body=b"bad key thekey thesecret"))
    transport = SpoolTransport(spool_path=spool_path, proxy=None)
    client = make_client(ingest.dsn(key="thekey", secret="thesecret"), transport)
    capture(client)
    wait_until(lambda: ingest.requests != [], what="a request")
    wait_until(lambda: transport.flusher.spool.page()[0].attempts > 0, what="the attempt")
    stored = transport.flusher.spool.page()[0]
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("raven.spool")]
    shown = " ".join([repr(transport), repr(stored), repr(transport.stats()), *ours])
    assert "thekey" not in shown
    assert "thesecret" not in shown
    assert "HTTP 401" in stored.reason


def test_requests_backend_uses_requests(ingest, spool_path, monkeypatch):
    used = []
    real = requests.adapters.HTTPAdapter.send
    monkeypatch.setattr(
        requests.adapters.HTTPAdapter,
        "send",
        lambda self, *args, **options: used.append(1) or real(self, *args, **options),
    )
    client = make_client(ingest.dsn(), SpoolTransport(spool_path=spool_path, backend="requests"))
    capture(client, 3)
    assert client.remote.get_transport().flush(10)
    assert len(ingest.event_ids()) == 3
    assert len(used) == 3


def test_unusable_path_warns_once_and_events_are_sent_from_memory(ingest, spool_path, caplog):
    with open(spool_path, "w") as in_the_way:
        in_the_way.write("not a directory")
    client = make_client(ingest.dsn(), SpoolTransport(spool_path=spool_path))
    ids = capture(client, 5)
    assert ingest.wait_for(5)
    assert sorted(ingest.event_ids()) == sorted(ids)
    warnings = [r.getMessage() for r in caplog.records if r.name == "raven.spool"]
    assert len(warnings) == 1
    assert spool_path in warnings[0]
    assert "not a directory" in warnings[0]


def test_events_in_memory_survive_close_and_come_home_when_the_path_heals(spool_path):
    with open(spool_path, "w") as in_the_way:
        in_the_way.write("not a directory")
    transport = SpoolTransport(spool_path=spool_path)
    client = make_client("http://k:s@127.0.0.1:9/1", transport)
    ids = capture(client, 3)
    transport.close(0.1)
    assert transport.flusher.volatile == 3
    os.unlink(spool_path)

    def send_one_more():
        ids.extend(capture(client))
        return transport.flusher.volatile == 0

    wait_until(send_one_more, what="the spool to take events again")
    stored = {one.event.event_id for one in transport.flusher.spool.page(limit=1000)}
    assert stored == set(ids)
    assert transport.stats()["accepted"] == len(ids)


def test_events_that_come_home_to_a_busy_spool_are_sent_once(ingest, spool_path):
    """One of them is left to the spool's waiting line then: memory must not send it as well."""
    with open(spool_path, "w") as in_the_way:
        in_the_way.write("not a directory")
    ingest.stop()
    transport = SpoolTransport(spool_path=spool_path, wait=lambda state: 0.01)
    ids = capture(make_client(ingest.dsn(), transport), 3)
    os.unlink(spool_path)
    ours = transport.flusher
    ours.spool.look_again()
    ours.spool.stats()  # it is there now
    with open(os.path.join(spool_path, "write.lock"), "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ours._start_homecoming()
        wait_until(lambda: not ours._homing.locked(), what="the way home")
        assert ours.spool.volatile == 1
        ingest.start()
        wait_until(lambda: len(ingest.event_ids()) >= 2, what="what memory still has")
    assert transport.flush(20)
    assert sorted(ingest.event_ids()) == sorted(ids)


def test_programs_that_only_enqueue_tell_that_nobody_delivers(ingest, spool_path, caplog):
    first = make_client(ingest.dsn(), SpoolTransport(spool_path=spool_path, backend="none"))
    capture(first)
    watch = SpoolTransport(spool_path=spool_path).flusher.spool.watchdog
    watch._warn_age_seconds, watch._next_ticks = 1e-9, None  # as a program begun an hour later

    transport = SpoolTransport(spool_path=spool_path, backend="none")
    capture(make_client(ingest.dsn(), transport), 3)

    told = [r.getMessage() for r in caplog.records if r.name == "raven.spool"]
    assert len(told) == 1, told
    assert f"the spool {spool_path}: 2 events wait" in told[0]
    assert transport.stats()["alarm"] in told[0]
