"""Rows that can't be sent, shown or understood go to the dead letters and stand in nobody's way."""

import contextlib
import json
import os
import resource
import sqlite3
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raven_spool.drain import machine
from raven_spool.model import Event, Failure, Fault, Request, Send, State
from raven_spool.spool import Spool
from tests.faults.children import Child
from tests.faults.events import body_of, check_bodies, event_table, make_transport, new_id, send
from tests.support import evidence, tool
from tests.support.drains import OK, Process
from tests.support.ingest import Ingest
from tests.support.spools import HERE, check_ledger, discard, event
from tests.support.waiting import wait_until

DSN = "http://5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e@127.0.0.1:9/1"


def execute(path: Path, sql: str, *parameters: Any) -> None:
    """Behind our own code's back; `events` is the table of events."""
    database = path / (path / "current").read_text().strip() / "data.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(sql.replace("events", event_table(connection)), parameters)


def crc_of(headers: bytes, body: bytes = b"{}") -> int:
    return zlib.crc32(body, zlib.crc32(headers))


def with_headers(text: bytes) -> tuple[str, tuple[Any, ...]]:
    """A row whose checksum is right all the same."""
    return (
        "UPDATE events SET headers = CAST(? AS TEXT), crc = ? WHERE _id = 2",
        (text, crc_of(text)),
    )


# What is put into the second of three events, or into what it hangs on.
POISONS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "headers undecodable": with_headers(b"\xff\xfe"),
    "headers no JSON": with_headers(b"{"),
    "headers an object": with_headers(b'{"a": "b"}'),
    "headers of numbers": with_headers(b"[[1, 2]]"),
    "headers nested": with_headers(b"[" * 100_000),
    "headers a blob": ("UPDATE events SET headers = x'00ff' WHERE _id = 2", ()),
    "data a text": ("UPDATE events SET data = 'text' WHERE _id = 2", ()),
    "data a number": ("UPDATE events SET data = 7 WHERE _id = 2", ()),
    "crc a text": ("UPDATE events SET crc = 'x' WHERE _id = 2", ()),
    "endpoint unknown": ("UPDATE events SET endpoint = '../../x' WHERE _id = 2", ()),
    "endpoint undecodable": ("UPDATE events SET endpoint = CAST(x'ff' AS TEXT) WHERE _id = 2", ()),
}
# These hurt nobody: what is wrong is no part of what is sent.
SCRATCHES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "attempts a text": ("UPDATE events SET attempts = 'x' WHERE _id = 2", ()),
    "deaths a blob": ("UPDATE events SET deaths = x'ff' WHERE _id = 2", ()),
    "size a text": ("UPDATE events SET size = 'large' WHERE _id = 2", ()),
    "event_id undecodable": ("UPDATE events SET event_id = CAST(x'ff' AS TEXT) WHERE _id = 2", ()),
    "reason undecodable": ("UPDATE events SET reason = CAST(x'ff' AS TEXT) WHERE _id = 2", ()),
    "history no JSON": ("UPDATE events SET history = '{' WHERE _id = 2", ()),
    "history an object": ("UPDATE events SET history = '{}' WHERE _id = 2", ()),
    "due a text": ("UPDATE events SET due = 'soon' WHERE _id = 2", ()),
    "captured in the year 10,000": ("UPDATE events SET timestamp = 9e999 WHERE _id = 2", ()),
}
LOSSES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "settings no JSON": ("UPDATE destinations SET settings = '{'", ()),
    "settings undecodable": ("UPDATE destinations SET settings = CAST(x'ff' AS TEXT)", ()),
    "settings of wrong types": (
        "UPDATE destinations SET settings = ?",
        (json.dumps({"base_url": 1, "project": [], "public_key": None}),),
    ),
    "settings incomplete": ("UPDATE destinations SET settings = '{}'", ()),
    "destination gone": ("DELETE FROM destinations", ()),
    "destination's own lane gone": (
        "DELETE FROM lanes WHERE category = '' OR destination NOT IN (SELECT id FROM destinations)",
        (),
    ),
}


def fill(path: Path) -> None:
    spool = Spool(str(path), fsync="no")
    for number in (1, 2, 3):
        spool.enqueue(event(number), HERE)
    discard(spool)


def deliver(path: Path) -> list[str]:
    """What one worker sends until it stands idle; ids as in the bodies' order."""
    process = Process(path)
    sent = []
    while isinstance(decision := process.step(), Send):
        sent.append(decision.claimed.event.event_id)
        process.answer(decision, OK)
        assert len(sent) < 10
    process.crash()
    discard(process.spool)
    return sent


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_poison_row_is_buried_and_the_others_go(
    tmp_path: Path, poison: tuple[str, tuple[Any, ...]]
) -> None:
    path = tmp_path / "spool"
    fill(path)
    execute(path, poison[0], *poison[1])

    assert deliver(path) == [event(1).event_id, event(3).event_id]

    spool = Spool(str(path))
    (dead,) = spool.page(state=State.DEAD)
    assert dead.id == 2
    assert dead.reason.startswith("damaged on disk")
    assert check_ledger(spool)["delivered"] == 2
    discard(spool)


@pytest.mark.parametrize("scratch", SCRATCHES.values(), ids=SCRATCHES)
def test_row_with_a_scratch_is_delivered(
    tmp_path: Path, scratch: tuple[str, tuple[Any, ...]]
) -> None:
    path = tmp_path / "spool"
    fill(path)
    execute(path, scratch[0], *scratch[1])

    sent = deliver(path)

    assert {event(1).event_id, event(3).event_id} <= set(sent)
    spool = Spool(str(path))
    stats = check_ledger(spool)
    assert stats["delivered"] + stats["dead"] == 3
    discard(spool)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_events_of_a_lost_destination_are_buried_and_others_go(
    tmp_path: Path, loss: tuple[str, tuple[Any, ...]]
) -> None:
    path = tmp_path / "spool"
    fill(path)
    execute(path, loss[0], *loss[1])
    process = Process(path)
    process.put(4, destination=HERE)

    numbers, _ = process.deliver_all()

    assert 4 in numbers
    stats = check_ledger(process.spool)
    assert stats["ready"] == 0
    assert stats["delivered"] + stats["dead"] == 4
    process.crash()


@pytest.mark.parametrize(
    "poison",
    [*POISONS.values(), *SCRATCHES.values(), *LOSSES.values()],
    ids=[*POISONS, *SCRATCHES, *LOSSES],
)
def test_spool_with_a_poison_row_can_be_looked_at(
    tmp_path: Path, poison: tuple[str, tuple[Any, ...]]
) -> None:
    from raven_spool.cli.ls import describe_stored

    path = tmp_path / "spool"
    fill(path)
    execute(path, poison[0], *poison[1])
    spool = Spool(str(path))

    rows = [json.dumps(describe_stored(stored)) for stored in spool.page()]

    assert len(rows) == len(spool.list_keys()) == 3
    assert spool.get(2).id == 2
    assert spool.stats()["ready"] == 3
    spool.bury([2], "for a test", 0.0)
    assert spool.revive([2]) == 1
    assert spool.reroute([2], HERE) == 1
    assert spool.drop([2], "removed") == 1
    discard(spool)


def test_tool_shows_a_row_of_no_lane_and_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    tool.fill(path, DSN, "one", "two", created_at=1e9)
    execute(path, "UPDATE events SET lane = 99, history = '[' WHERE _id = 2")
    for arguments in (["ls"], ["ls", "--json"], ["show", "2"], ["show", "2", "--json"], ["stats"]):
        ran = tool.run(*arguments, "--spool", path)
        assert ran.returncode == 0, ran.stderr
    assert tool.run("rm", "2", "--yes", "--spool", path).returncode == 0


# -- events of which no request can be made -------------------------------------------------------


def make_raise_at(monkeypatch: pytest.MonkeyPatch, poison: bytes) -> None:
    """A fault of our own in what makes a request of a row: foreign bytes must not make it raise,
    and this is for the day when some do."""
    original = machine.build_request

    def build(event: Event, *arguments: Any) -> Request:
        if event.body == poison:
            raise IndexError("a body that nobody thought of")
        return original(event, *arguments)

    monkeypatch.setattr(machine, "build_request", build)


def test_event_of_which_no_request_can_be_made_is_buried_and_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_raise_at(monkeypatch, b"poison")
    process = Process(tmp_path / "spool")
    process.put(1)
    process.spool.enqueue(event(2, body=b"poison"), HERE)
    process.put(3)

    numbers = process.deliver_all()[0] + process.deliver_all()[0]  # it takes a breath there

    assert numbers == [1, 3]
    (dead,) = process.spool.page(state=State.DEAD)
    assert (dead.id, dead.attempts) == (2, 1)
    assert dead.reason == "no request can be made of it (IndexError)"
    assert check_ledger(process.spool)["delivered"] == 2
    process.crash()


@pytest.mark.parametrize("backend", ["thread", "inline"])
def test_application_goes_on_behind_an_event_of_which_no_request_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    path, poison = tmp_path / "spool", new_id()
    make_raise_at(monkeypatch, body_of(poison))
    with Ingest() as ingest:
        transport = make_transport(path, backend=backend)
        send(transport, ingest.url, poison)
        sent = [send(transport, ingest.url) for _ in range(3)]
        wait_until(lambda: transport.stats()["delivered"] == 3, what="delivery")
        assert sorted(ingest.event_ids()) == sorted(sent)
        assert transport.stats()["dead"] == 1
        transport.close(10)


def drain_in_little_memory(path: Path, url: str) -> None:
    transport = make_transport(path)
    send(transport, url)  # all is imported and running
    transport.flush(10)
    poison = bomb()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    transport.flusher.spool.enqueue(poison, replace(HERE, base_url=url))
    send(transport, url)
    transport.flush(10)
    transport.close(1)


def bomb() -> Event:
    """An envelope whose header line says so little that it must be unpacked whole."""
    packed = zlib.compress(b"{}\n" + bytes(180 << 20), level=1, wbits=31)
    headers = (("Content-Encoding", "gzip"),)
    return replace(
        event(1, body=packed, created_at=time.time()), endpoint="envelope", headers=headers
    )


def test_event_that_needs_more_memory_than_there_is_stands_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest:
        with Child(drain_in_little_memory, path, ingest.url) as child:
            assert child.join() == 0
        assert len(ingest.event_ids()) == 2
    spool = Spool(str(path))
    (dead,) = spool.page(state=State.DEAD)
    assert dead.reason == "no request can be made of it (MemoryError)"
    assert check_ledger(spool)["ready"] == 0
    discard(spool)


# -- senders that raise, and flushers that die ----------------------------------------------------


class _Choosy:
    """A transport's sender with a fault of its own."""

    def __init__(self, poison: bytes) -> None:
        self.poison = poison
        self.raised = 0

    def send(self, request: Any) -> Any:
        if request.body == self.poison:
            self.raised += 1
            raise LookupError("unknown encoding: idna")
        return OK


def test_event_that_makes_its_sender_raise_is_buried_at_the_third_time(tmp_path: Path) -> None:
    from raven_spool.drive import exchange

    process = Process(tmp_path / "spool")
    process.spool.enqueue(event(1, body=b"poison"), HERE)
    sender = _Choosy(b"poison")
    closed = []
    for number in range(2, 40):
        process.put(number)
        while isinstance(decision := process.step(), Send):
            outcome = exchange(lambda name: sender, "urllib", decision.request)
            process.answer(decision, outcome)
            if decision.request.body == sender.poison:
                closed.append(process.lane().failures)
        process.turn(400)

    poison = process.spool.get(1)
    assert sender.raised == 3
    assert max(closed) == 1  # its destination is blamed once
    assert poison.state is State.DEAD
    assert poison.attempts == 3
    assert "raised LookupError, 3 times" in poison.reason
    assert check_ledger(process.spool)["delivered"] == 38
    process.crash()


def test_sender_that_raises_at_all_events_buries_none(tmp_path: Path) -> None:
    process = Process(tmp_path / "spool")
    process.put(*range(1, 6))
    raised = Failure(fault=Fault.RAISED, message="the sender raised X", maybe_delivered=True)

    for _ in range(60):
        decision = process.step()
        if isinstance(decision, Send):
            process.answer(decision, raised)
        process.turn(60)

    assert check_ledger(process.spool)["ready"] == 5
    process.crash()


def drain_with_abort(path: Path, url: str, poison: str) -> None:
    """A flusher whose sender ends the process at one event, as a crash in a C library does."""
    import raven_spool.senders.urllib as urllib_sender

    original = urllib_sender.UrllibSender.send

    def send_or_die(self: Any, request: Any) -> Any:
        if request.body == body_of(poison):
            os.abort()
        return original(self, request)

    urllib_sender.UrllibSender.send = send_or_die  # type: ignore[method-assign]
    transport = make_transport(path, backend="thread")
    send(transport, url)
    transport.flush(10)
    transport.close(1)


@pytest.mark.evidence
def test_event_that_kills_its_flusher_is_buried_and_the_others_arrive(tmp_path: Path) -> None:
    path, poison = tmp_path / "spool", new_id()
    with Ingest() as ingest:
        transport = make_transport(path, backend="none")
        sent = [send(transport, ingest.url) for _ in range(3)]
        send(transport, ingest.url, poison)
        sent += [send(transport, ingest.url) for _ in range(3)]
        transport.close()
        ends = []
        while not ends or ends[-1] != 0:
            with Child(drain_with_abort, path, ingest.url, poison) as child:
                ends.append(child.join())
            assert len(ends) < 8
        wait_until(lambda: set(sent) <= set(ingest.event_ids()), what="delivery")
        check_bodies(ingest.requests)
    spool = Spool(str(path))
    (dead,) = spool.page(state=State.DEAD)
    assert dead.event.event_id == poison
    assert "ended the flusher" in dead.reason
    assert check_ledger(spool)["ready"] == 0
    discard(spool)
    evidence.note(
        "an event that kills its flusher (SIGABRT in the sender), six others beside it",
        promise=2,
        tried=f"{len(ends)} flushers",
        events=7,
        lost=0,
    )
