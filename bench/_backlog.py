"""Spools with something in them, filled faster than by sends, and drained by one call."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice

from _events import KEY, Captured
from _sink import Sink

from raven_spool import backends
from raven_spool.config import Options
from raven_spool.flusher import make_drain
from raven_spool.model import Destination, Event
from raven_spool.protocol import prepare, split_headers
from raven_spool.runtimes.thread import ThreadRuntime
from raven_spool.spool import Spool
from raven_spool.spool.queue import EventQueue
from raven_spool.spool.rows import Row
from raven_spool.spool.stored import checksum

_INSERTED_AT_ONCE = 500
DRAIN_SECONDS = 600.0
_SMALL_BODY_CHARS = 180


def make_destination(sink: Sink, sender: str) -> Destination:
    return Destination(
        base_url=f"http://127.0.0.1:{sink.port}",
        project="1",
        public_key=KEY,
        secret_key=KEY,
        client="raven-python/6.10.0",
        sender=sender,
    )


def prepare_events(event: Captured, bodies: Iterable[bytes]) -> list[Event]:
    """As a transport would store them."""
    _, headers = split_headers(event.headers)
    return [
        prepare(
            body,
            headers,
            endpoint="store",
            created_at=time.time(),
            new_id=lambda: uuid.uuid4().hex,
        )
        for body in bodies
    ]


def make_small_events(count: int) -> Iterator[Event]:
    """About 300 bytes each, as a backlog of a million is no place for realism."""
    now = time.time()
    for _ in range(count):
        event_id = uuid.uuid4().hex
        document = {
            "event_id": event_id,
            "message": "x" * _SMALL_BODY_CHARS,
            "level": "error",
            "platform": "python",
            "server_name": "bench",
        }
        yield Event(
            event_id=event_id,
            category="error",
            endpoint="store",
            headers=(("Content-Type", "application/json"),),
            body=json.dumps(document).encode(),
            created_at=now,
        )


def fill(spool: Spool, destination: Destination, events: Iterable[Event]) -> None:
    """Many rows a commit: the queue class's own statement, without waiting for each."""
    events = iter(events)
    while batch := list(islice(events, _INSERTED_AT_ONCE)):
        spool._write(lambda queue, batch=batch: _insert(spool, queue, destination, batch))  # type: ignore[misc]


def _insert(spool: Spool, queue: EventQueue, destination: Destination, batch: list[Event]) -> None:
    queue.insert([_row(spool, queue, destination, event) for event in batch])


def _row(spool: Spool, queue: EventQueue, destination: Destination, event: Event) -> Row:
    headers = json.dumps(event.headers)
    return Row(
        lane=spool._book.lane_id(queue, destination, event.category),
        timestamp=event.created_at,
        event_id=event.event_id,
        endpoint=event.endpoint,
        size=len(event.body),
        crc=checksum(headers, event.body),
        headers=headers,
        data=event.body,
    )


def drain(spool: Spool, *, workers: int, limit: int) -> float:
    """Deliver so many events as the thread runtime does it; returns the seconds it took."""
    machine = make_drain(spool, Options(), workers=workers)
    machine.limit = limit
    runtime = ThreadRuntime(machine, backends.make_sender)
    began = time.perf_counter()
    machine.finish(time.monotonic() + DRAIN_SECONDS)
    runtime.wake()
    ended = runtime.join(DRAIN_SECONDS)
    machine.end()
    seconds = time.perf_counter() - began
    assert ended
    assert machine.counts.delivered == limit, machine.counts
    return seconds
