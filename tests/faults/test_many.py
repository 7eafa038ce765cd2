"""Very many destinations in one spool, half of them dead; many processes when a server is back."""

import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import (
    AUTH,
    body_of,
    check_nothing_lost,
    count_repeats,
    make_transport,
    new_id,
    read_ledger,
    send,
)
from tests.support import answers, evidence
from tests.support.ingest import Ingest, Seen
from tests.support.waiting import wait_until

_TIMEOUT_SECONDS = 0.2
_WORKERS = 4
_DEAD = {"silent": answers.silence(), "503": answers.status(503), "garbage": answers.garbage()}


def _answer(seen: Seen) -> answers.Answer:
    kind = seen.path.split("/")[1].rstrip("0123456789")
    return _DEAD.get(kind.removesuffix("-"), answers.ok())


@contextmanager
def _nobody() -> Iterator[str]:
    """Where connections are refused: the port is ours, and nobody listens."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def _most_at_once(requests: list[Seen], since: float) -> int:
    """Silent ones that were under way together, of those that began after that."""
    began = [seen.at for seen in requests if seen.answer == "silence" and seen.at > since]
    return max(
        (sum(at <= other < at + _TIMEOUT_SECONDS * 0.9 for other in began) for at in began),
        default=0,
    )


def _answers_awaited_in_vain(caplog: pytest.LogCaptureFixture) -> int:
    """Of live ones: on a busy machine an answer may come after the time that a client waits."""
    told = [record.getMessage() for record in caplog.records]
    return sum("/live-" in text and "no whole answer" in text for text in told)


def check_many(path: Path, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each is a server of its own, by its path. The live ones go out among the dead, and once
    the dead are known they are hardly in the way at all."""
    kinds = ["silent", "503", "garbage", "refused", "live", "live", "live", "live"]
    with Ingest() as ingest, _nobody() as nowhere:
        ingest.answer_by(_answer)
        places = [
            f"{nowhere if kinds[number % 8] == 'refused' else ingest.url}"
            f"/{kinds[number % 8]}-{number}/api/1/store/"
            for number in range(count)
        ]
        transport = make_transport(
            path, timeout=_TIMEOUT_SECONDS, concurrency=_WORKERS, wait=lambda state: 2.0
        )

        def send_to(some: list[str]) -> set[str]:
            return {transport.send(place, body_of(new_id()), AUTH) for place in some}

        live = [place for place in places if "/live-" in place]
        dead = [place for place in places if "/live-" not in place]
        ids = send_to(places)
        ingest.wait_for(len(live), timeout_seconds=30 + count / 8)
        first = ingest.requests
        more = send_to(live)
        ingest.wait_for(2 * len(live), timeout_seconds=30 + count / 8)
        second = ingest.requests[len(first) :]
        transport.close(1)
        check_nothing_lost([*ids, *more], ingest, path)
        ledger = read_ledger(path)
    repeats = count_repeats(ingest)
    assert repeats <= _answers_awaited_in_vain(caplog)
    assert (ledger["delivered"], ledger["ready"]) == (2 * len(live), len(dead))
    heard_at = next(seen.at for seen in first if seen.accepted) + _TIMEOUT_SECONDS
    at_once = _most_at_once(first + second, heard_at)
    assert at_once <= _WORKERS // 2
    half = [index for index, seen in enumerate(first) if seen.accepted][len(live) // 2]
    tried = {seen.path for seen in first[:half] if not seen.accepted}
    assert len(tried) < sum("/refused-" not in place for place in dead)  # not behind the dead
    probes = sum(not seen.accepted for seen in second)
    assert probes < len(live)
    evidence.note(
        "as many dead destinations in one spool as live ones: silent, refused, 503, garbage",
        promise=6,
        tried=f"{count:,} DSNs",
        events=len(ids) + len(more),
        lost=0,
        twice=repeats,
        seen=f"{at_once} of {_WORKERS} workers at silent ones at most; "
        f"{probes} probes among {len(more)} deliveries once the dead were known",
    )


@pytest.mark.evidence
def test_live_ones_are_delivered_among_as_many_dead_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_many(tmp_path / "spool", 160, caplog)


@pytest.mark.soak
def test_live_ones_are_delivered_among_a_thousand_dead_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_many(tmp_path / "spool", 2_000, caplog)


# -- when a server is back ------------------------------------------------------------------------

_EACH = 5
# Under way when each request comes, at most: one alone, then two; when one of these was answered
# the other and two more, and so on.
_RAMP = (1, 1, 2, 2, 3)


class Crowd:
    """Answers after a moment, and counts how many requests are under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0
        self.in_order: list[int] = []  # how many were under way when each came, itself included

    def answer(self) -> answers.Answer:
        def play(talk: answers.Talk) -> bool:
            with self._lock:
                self.now += 1
                self.in_order.append(self.now)
                seconds = 0.2 if len(self.in_order) <= len(_RAMP) else 0.02
            talk.stopping.wait(seconds)
            with self._lock:
                self.now -= 1  # before the answer: the next request may come at once
            return answers.ok().play(talk)

        return answers.Answer(name="crowd", play=play, status=200)


def _client(path: Path, url: str, notes: Notes) -> None:
    # Patient: what a crowded spool leaves in memory, its process sends from there by itself.
    transport = make_transport(path, wait=lambda state: 1.0, concurrency=_WORKERS, send_timeout=30)
    for _ in range(_EACH):
        notes.write(send(transport, url))
    wait_for_ever()


def _is_known_dead(path: Path) -> bool:
    """On a busy machine all may be stored before the first is tried."""
    (database,) = path.glob("g-*/data.db")
    with closing(sqlite3.connect(database, timeout=5)) as connection:
        return connection.execute("SELECT MAX(failures) FROM lanes").fetchone() > (0,)


def check_return(path: Path, processes: int) -> None:
    """Of all processes one leads: one probe, then 1, 2, 4 at once, however many wait."""
    crowd, notes = Crowd(), Notes(path.with_name("notes"))
    with Ingest() as ingest:
        ingest.answer_with(crowd.answer())
        url = ingest.url
        ingest.stop()
        children = [Child(_client, path, url, notes) for _ in range(processes)]
        try:
            returned = notes.wait_for(processes * _EACH, timeout_seconds=90)
            wait_until(lambda: _is_known_dead(path), what="an attempt in vain")
            ingest.start()
            ingest.wait_for(len(returned), timeout_seconds=90)
            wait_until(lambda: read_ledger(path)["ready"] == 0, what="the last acks")
        finally:
            for child in children:
                child.kill()
        check_nothing_lost(returned, ingest, path)
        requests, connections = ingest.requests, ingest.connections
        repeats = count_repeats(ingest)
    started = crowd.in_order[: len(_RAMP)]
    assert all(at_once <= most for at_once, most in zip(started, _RAMP, strict=True)), started
    assert max(crowd.in_order) <= _WORKERS
    assert repeats == 0
    first = sum(seen.at < requests[0].at + 1 for seen in requests)
    evidence.note(
        "processes on one spool whose server is back after an outage",
        promise=6,
        tried=f"{processes} processes",
        events=len(returned),
        lost=0,
        twice=repeats,
        seen=f"{max(crowd.in_order)} requests at once at most, on {connections} connections; "
        f"{first} in the first second: 200 ms for each of the first, 20 ms for the others",
    )


@pytest.mark.evidence
def test_ten_processes_whose_server_is_back_come_as_one(tmp_path: Path) -> None:
    check_return(tmp_path / "spool", 10)


@pytest.mark.soak
def test_a_hundred_processes_whose_server_is_back_come_as_one(tmp_path: Path) -> None:
    check_return(tmp_path / "spool", 100)
