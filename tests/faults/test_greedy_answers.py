"""Answers without an end: no server can fill the memory of whoever sends, or keep it for long."""

import gzip
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven_spool.config import Options
from raven_spool.drive import Worker
from raven_spool.flusher import make_drain
from raven_spool.model import Destination, Send, Wait
from raven_spool.spool import Spool
from tests.faults.children import Child, Notes
from tests.support import answers, evidence
from tests.support.answers import Answer
from tests.support.blocking import SENDERS, open_sender
from tests.support.ingest import Ingest, Seen
from tests.support.spools import check_ledger, event

TIMEOUT_SECONDS = 0.5
SLACK_SECONDS = 5.0  # the machine may be busy
MIB = 1 << 20
MOST_MIB = 10  # of a flood that would bring hundreds a second
AS_URLLIB = ("requests", "gevent", "eventlet")  # http.client reads the answer for them too
LIBRARIES = {"urllib": "http", "tornado": "pycurl"}  # of the others the sender's own name

X = b"x" * 65536
REFUSED = b"HTTP/1.1 503 Down\r\n"
CHUNKED = REFUSED + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = REFUSED + b"Content-Length: 2\r\n\r\n{}"
TUNNEL = b"HTTP/1.1 200 Connected\r\n"
LINES = b"X-A: 1\r\n" * 1000
BOMB = gzip.compress(bytes(256 * MIB))

# A start, and what follows without an end. The first goes on while the others are tried.
ENDLESS = {
    "unasked": (WHOLE, WHOLE * 1000),
    "body": (REFUSED + b"\r\n", X),
    "sized-body": (REFUSED + b"Content-Length: 999999999999999\r\n\r\n", X),
    "chunks": (CHUNKED, b"10000\r\n" + X + b"\r\n"),
    "chunk-of-256-tib": (CHUNKED + b"ffffffffffff\r\n", X),
    "chunk-size": (CHUNKED, b"0" * 65536),
    "chunk-extension": (CHUNKED + b"5;", X),
    "chunk-extensions": (CHUNKED, (b"1;a=" + b"x" * 50 + b"\r\nx\r\n") * 1000),
    "trailer": (CHUNKED + b"0\r\nX-A: ", X),
    "trailers": (CHUNKED + b"0\r\n", LINES),
    "header": (REFUSED + b"X-A: ", X),
    "headers": (REFUSED, LINES),
    "folded-header": (REFUSED + b"X-A: 1", b"\r\n 2" * 1000),
    "status-line": (b"HTTP/1.1 503 ", X),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "early-hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000),
    "empty-lines": (b"", b"\r\n" * 1000),
    "no-line": (b"", X),
    "gzip-bomb": (
        REFUSED + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB,
        b"",
    ),
}
# From a proxy that is asked for a tunnel.
TUNNELS = {
    "tunnel-header": (TUNNEL + b"X-A: ", X),
    "tunnel-headers": (TUNNEL, LINES),
    "tunnel-body": (TUNNEL + b"\r\n", X),
    "tunnel-refused": (REFUSED + b"\r\n", X),
    "tunnel-status-line": (b"HTTP/1.1 200 ", X),
    "tunnel-continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}
ALL = ENDLESS | TUNNELS


def choose(seen: Seen) -> Answer:
    """By the project, or by the host that a tunnel is asked to."""
    name = seen.path.partition(".")[0] if seen.method == "CONNECT" else seen.path.split("/")[2]
    return answers.endless(name, *ALL[name])


def destinations(url: str) -> Iterator[Destination]:
    for name in ENDLESS:
        yield Destination(
            base_url=url, project=name, public_key="k", proxy="", timeout_seconds=TIMEOUT_SECONDS
        )
    for name in TUNNELS:
        yield Destination(
            base_url=f"https://{name}.invalid",
            project=name,
            public_key="k",
            proxy=url,
            verify_ssl=False,
            timeout_seconds=TIMEOUT_SECONDS,
        )


def send_all(name: str, path: Path, url: str, seen: Path) -> None:
    spool, sender = Spool(str(path)), open_sender(name)
    for number, to in enumerate(destinations(url)):
        assert spool.enqueue(event(number, created_at=time.time()), to)
    worker, outcome, left = Worker(make_drain(spool, Options())), None, set(ALL)
    while left:  # the child has its time from whoever joins it
        match worker.next(outcome):
            case Send(claimed, request):
                began, before = time.monotonic(), forget_peak()
                outcome = sender.send(request)
                took, more = time.monotonic() - began, peak_bytes() - before
                Notes(seen).write(json.dumps([claimed.destination.project, more, took]))
                left.discard(claimed.destination.project)
            case Wait(seconds):
                assert seconds < 1
                outcome = None
                time.sleep(seconds)
    worker.next(outcome)
    worker.abandon()
    sender.end()
    assert check_ledger(spool)["ready"] == len(ALL)
    spool.finish()


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.evidence
@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.soak if one in AS_URLLIB else ()) for one in SENDERS],
)
def test_answer_without_an_end_fills_no_memory_and_holds_no_worker(
    tmp_path: Path, name: str
) -> None:
    if importlib.util.find_spec(LIBRARIES.get(name, name)) is None:
        pytest.skip(f"{name} is not installed")
    notes = Notes(tmp_path / "seen")
    with Ingest() as ingest:
        ingest.answer_by(choose)
        with Child(send_all, name, tmp_path / "spool", ingest.url, notes.path) as child:
            assert child.join(100) == 0
    tried = [json.loads(line) for line in notes.read()]
    assert {attack for attack, _, _ in tried} == ALL.keys()
    for attack, more, took in tried:
        assert more < MOST_MIB * MIB, (attack, more / MIB)
        assert took < TIMEOUT_SECONDS + SLACK_SECONDS, (attack, took)
    evidence.note(
        f"answers and proxies without an end (bodies, chunks, headers, 100s, a bomb): {name}",
        promise=4,
        tried=f"{len(ALL)} kinds",
        events=len(ALL),
        lost=0,
        seen=f"less than {MOST_MIB} MiB more in each process, back within its timeout",
    )
