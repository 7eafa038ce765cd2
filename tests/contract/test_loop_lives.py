"""Transports and the life of an asyncio loop: before it, inside it, after it, in a second one."""

import asyncio
import gc
import threading
import time

import pytest
import raven

from raven_spool import SpoolTransport
from raven_spool.runtimes import loop as loop_runtime
from raven_spool.transport import AsyncioHTTPTransport, TornadoHTTPTransport
from tests.support import tool
from tests.support.answers import Gate, held
from tests.support.waiting import wait_until

BOTH = pytest.mark.parametrize("cls", [AsyncioHTTPTransport, TornadoHTTPTransport])
PATIENCE_SECONDS = 20


@pytest.fixture
def make_client(ingest, path):
    def make(cls=AsyncioHTTPTransport, **options):
        transport = cls(spool_path=str(path), timeout=30, **options)
        return raven.Client(
            ingest.dsn(), transport=transport, install_sys_hook=False, raise_send_errors=True
        )

    return make


def capture(client, text="event"):
    event_id = client.captureMessage(text)
    client.context.clear()
    return event_id


def transport_of(client):
    return client.remote.get_transport()


async def until(is_so, what):
    """`wait_until`, in a loop that goes on."""
    await asyncio.to_thread(wait_until, is_so, what=what)


@BOTH
def test_event_sent_inside_the_loop_is_delivered_by_it(ingest, make_client, cls):
    client = make_client(cls)

    async def main():
        ids = [capture(client) for _ in range(20)]
        await until(lambda: len(ingest.event_ids()) == 20, "the events")
        assert sorted(ingest.event_ids()) == sorted(ids)

    asyncio.run(main())


@BOTH
def test_event_sent_before_the_loop_waits_for_the_next_one_inside(ingest, make_client, cls):
    client = make_client(cls)
    early = capture(client)
    assert transport_of(client).stats()["ready"] == 1

    async def main():
        late = capture(client)
        await until(lambda: len(ingest.event_ids()) == 2, "both events")
        assert sorted(ingest.event_ids()) == sorted([early, late])

    asyncio.run(main())


@BOTH
def test_event_sent_after_the_loop_stays_until_the_next_loop(ingest, make_client, cls):
    client = make_client(cls)

    async def send_one():
        event_id = capture(client)
        assert await transport_of(client).aflush(PATIENCE_SECONDS)
        return event_id

    first = asyncio.run(send_one())
    between = capture(client)
    assert transport_of(client).stats()["ready"] == 1
    assert not transport_of(client).flusher.spool.leadership.is_held
    second = asyncio.run(send_one())
    assert sorted(ingest.event_ids()) == sorted([first, between, second])


def test_flush_without_a_loop_delivers_with_threads(ingest, make_client):
    client = make_client()
    ids = [capture(client) for _ in range(10)]
    assert transport_of(client).flush(PATIENCE_SECONDS)
    assert sorted(ingest.event_ids()) == sorted(ids)
    assert not transport_of(client).flusher.spool.leadership.is_held


@BOTH
def test_flush_and_close_from_a_thread_wait_for_the_loop(ingest, make_client, cls):
    client = make_client(cls)
    transport = transport_of(client)

    async def main():
        capture(client)
        assert await asyncio.to_thread(transport.flush, PATIENCE_SECONDS)
        capture(client)
        await asyncio.to_thread(transport.close, PATIENCE_SECONDS)
        assert len(ingest.event_ids()) == 2
        assert not transport.flusher.spool.leadership.is_held

    asyncio.run(main())


def test_flush_inside_the_loop_delivers_and_does_not_lock_it_up(ingest, make_client):
    client = make_client()
    transport = transport_of(client)

    async def main():
        ids = []
        for _ in range(3):
            ids.append(capture(client))
            assert transport.flush(PATIENCE_SECONDS)
            assert sorted(ingest.event_ids()) == sorted(ids)
            await asyncio.sleep(0)
        ids.append(capture(client))
        await until(lambda: len(ingest.event_ids()) == 4, "the loop's own")
        assert sorted(ingest.event_ids()) == sorted(ids)

    asyncio.run(main())


def test_flush_inside_the_loop_does_not_wait_for_what_the_loop_itself_is_sending(
    ingest, make_client, caplog
):
    client = make_client()
    transport = transport_of(client)
    gate = Gate()
    ingest.answer_with(held(gate))

    async def main():
        capture(client)
        await asyncio.to_thread(gate.wait_until_held)
        began = time.monotonic()
        assert not transport.flush(PATIENCE_SECONDS)
        transport.close(PATIENCE_SECONDS)
        assert time.monotonic() - began < PATIENCE_SECONDS / 2
        assert "await aflush() there" in caplog.text
        gate.release()
        await until(lambda: transport.stats()["delivered"] == 1, "the answer")

    asyncio.run(main())
    assert len(ingest.requests) == 1


@BOTH
def test_aclose_of_many_transports_at_once_locks_nobody_up(ingest, make_client, cls):
    clients = [make_client(cls) for _ in range(20)]

    async def main():
        ids = [capture(client) for client in clients]
        await asyncio.gather(*(transport_of(one).aclose(PATIENCE_SECONDS) for one in clients))
        assert sorted(ingest.event_ids()) == sorted(ids)

    asyncio.run(main())
    flushers = {id(transport_of(one).flusher) for one in clients}
    assert len(flushers) == 1


@BOTH
def test_aclose_delivers_what_other_threads_alone_have_sent(ingest, make_client, cls):
    """As of endpoints that a framework runs in threads: no send has shown us the loop."""
    client = make_client(cls)

    async def main():
        ids = [await asyncio.to_thread(capture, client) for _ in range(5)]
        await transport_of(client).aclose(PATIENCE_SECONDS)
        assert sorted(ingest.event_ids()) == sorted(ids)

    asyncio.run(main())


def test_transports_of_different_backends_share_a_spool_and_a_loop(ingest, make_client):
    classes = [AsyncioHTTPTransport, TornadoHTTPTransport, SpoolTransport]
    clients = [make_client(cls) for cls in classes]

    async def main():
        ids = [capture(client) for client in clients * 10]
        assert await transport_of(clients[0]).aflush(PATIENCE_SECONDS)
        assert sorted(ingest.event_ids()) == sorted(ids)

    asyncio.run(main())


def test_loop_that_ends_before_all_is_sent_leaves_the_rest_to_others(ingest, make_client, path):
    client = make_client()
    gate = Gate()
    ingest.answer_with(held(gate))

    async def main():
        for _ in range(10):
            capture(client)
        await asyncio.to_thread(gate.wait_until_held)

    asyncio.run(main())
    gate.release()
    assert transport_of(client).stats()["ready"] == 10
    assert tool.run("flush", "--spool", path, "--quiet").returncode == 0
    assert transport_of(client).stats()["ready"] == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what was open is left to the collector
def test_loop_that_was_closed_without_a_word_hinders_no_second_one(ingest, make_client, caplog):
    client = make_client()
    gate = Gate()
    ingest.answer_with(held(gate))
    first = asyncio.new_event_loop()

    async def send_one():
        capture(client)
        await asyncio.to_thread(gate.wait_until_held)

    first.run_until_complete(send_one())
    first.close()
    del first
    gc.collect()
    gate.release()

    async def main():
        capture(client)
        assert await transport_of(client).aflush(PATIENCE_SECONDS)

    asyncio.run(main())
    assert len(set(ingest.event_ids())) == 2
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []
    gc.collect()


def test_loop_that_stands_still_lets_other_processes_drain(ingest, make_client, path, monkeypatch):
    monkeypatch.setattr(loop_runtime, "_WATCH_SECONDS", 0.05)
    monkeypatch.setattr(loop_runtime, "_PATIENCE_SECONDS", 0.1)
    client = make_client()
    transport = transport_of(client)
    ingest.stop()

    async def main():
        capture(client)
        await until(lambda: transport.flusher.spool.leadership.is_held, "the lead")
        await until(lambda: transport.flusher.spool.get(1).attempts == 1, "an attempt")
        ingest.start()
        # Nothing of this loop moves while the tool runs.
        assert tool.run("flush", "--spool", path, "--quiet").returncode == 0
        assert len(ingest.event_ids()) == 1
        capture(client)  # and now it moves again
        await until(lambda: len(ingest.event_ids()) == 2, "the event after it")

    asyncio.run(main())


def test_cancelled_worker_is_replaced_with_the_next_send(ingest, make_client):
    client = make_client()
    gate = Gate()
    ingest.answer_with(held(gate))

    async def main():
        capture(client)
        await asyncio.to_thread(gate.wait_until_held)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        gate.release()
        capture(client)
        assert await transport_of(client).aflush(PATIENCE_SECONDS)

    asyncio.run(main())
    assert len(set(ingest.event_ids())) == 2


def test_callback_that_captures_in_the_loop_is_not_fed_by_itself(ingest, make_client):
    delivered = []

    def on_delivered(event):
        delivered.append(event.event_id)
        capture(client, "from the callback")

    client = make_client(on_delivered=on_delivered)

    async def main():
        event_id = capture(client)
        await until(lambda: delivered == [event_id], "the callback")
        assert await transport_of(client).aflush(PATIENCE_SECONDS)

    asyncio.run(main())
    assert transport_of(client).flusher.ignored == 1
    assert len(ingest.event_ids()) == 1


def test_task_that_a_callback_starts_may_send(ingest, make_client):
    tasks = []

    async def report():
        capture(client, "from a task")

    def on_delivered(event):
        if not tasks:
            tasks.append(asyncio.create_task(report()))

    client = make_client(on_delivered=on_delivered)

    async def main():
        capture(client)
        await until(lambda: len(ingest.event_ids()) == 2, "the task's event")

    asyncio.run(main())
    assert transport_of(client).flusher.ignored == 0


def test_blocking_sender_of_a_user_runs_beside_the_loop(ingest, make_client):
    threads = []

    class Blocking:
        def send(self, url, data, headers):
            threads.append(threading.current_thread())

    client = make_client(sender=Blocking())

    async def main():
        capture(client)
        assert await transport_of(client).aflush(PATIENCE_SECONDS)

    asyncio.run(main())
    (thread,) = threads
    assert thread is not threading.main_thread()
