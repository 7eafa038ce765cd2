"""Servers that answer anything: a sender comes back with the answer or says why not, in time, in
little memory, and what it sends next is as good as ever."""

import json
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example
from hypothesis import strategies as st

from raven_spool.model import MAX_ANSWER_BYTES, Destination, Failure, Request, Response
from raven_spool.policy import Policy, judge
from raven_spool.protocol import build_request, rate_limits
from raven_spool.senders._exchange import Exchange, TimedSocket
from raven_spool.senders.requests import RequestsSender
from raven_spool.senders.urllib import UrllibSender
from tests.support.answers import render
from tests.support.fuzzing import lengths, mutated, note_searches, number_texts, search, texts
from tests.support.spools import NOW, event

GOOD = render(200, (("Connection", "close"),))
TIMEOUT_SECONDS = 0.15
HANGING_SECONDS = 30.0  # far above: what takes so long has no end
MEMORY_BYTES = 4 << 20


class Server:
    """Answers each connection with the next of these bytes, and closes or keeps it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.script: list[tuple[bytes, bool]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        kept: list[socket.socket] = []
        while not self._ended.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                break
            text, keeps = self.script.pop(0) if self.script else (GOOD, False)
            with suppress(OSError):
                sock.settimeout(5)
                sock.recv(65536)
                sock.sendall(text)
            kept.append(sock)
            if not keeps:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
            while len(kept) > 8:
                kept.pop(0).close()
        for sock in kept:
            sock.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def noted() -> Iterator[None]:
    yield
    note_searches(
        "servers that answer anything, destinations that a file names",
        promise=4,
        seen="a value each time, within its timeout; the next request as good as any",
    )


def make_request(port: int, **more: Any) -> Request:
    settings = {"timeout_seconds": TIMEOUT_SECONDS, **more}
    url = f"http://127.0.0.1:{port}/api/1/store/"
    return Request(url=url, headers=(("Content-Type", "x"),), body=b"{}", **settings)


def check_outcome(outcome: Response | Failure) -> None:
    """What the drain makes of it is bounded and may stand in a line of `ls`."""
    verdict = judge(
        Policy(), outcome, event=event(1), attempts=1, first_at=NOW, last_unanswered=False, now=NOW
    )
    reason = getattr(verdict, "reason", "")
    assert reason.isprintable()
    assert len(reason) < 1000
    if isinstance(outcome, Failure):
        assert outcome.message.isprintable()
        return
    assert type(outcome.status) is int
    assert len(outcome.body) <= MAX_ANSWER_BYTES
    json.dumps(dict(outcome.headers))
    assert all(limit.seconds <= 86400 for limit in rate_limits(outcome, NOW))


# -- answers --------------------------------------------------------------------------------------

_statuses = st.sampled_from([
    "HTTP/1.1 200 OK", "HTTP/1.1 429 Slow", "HTTP/1.0 200", "HTTP/1.1 100 Continue", "HTTP/2 200",
    "HTTP/1.1 204 X", "HTTP/1.1 304 X", "HTTP/1.1 999 X", "HTTP/1.1 1000 X", "HTTP/1.1 -200 X",
    "ICY 200 OK", "HTTP/1.1 407 X", "HTTP/1.1 301 X", "HTTP/1.1", "HTTP/1.1 2_00 X", "HTTP/9.9 200",
    "",
])  # fmt: skip
_names = st.sampled_from([
    "Content-Length", "Transfer-Encoding", "Connection", "Set-Cookie", "Location", "Retry-After",
    "X-Sentry-Rate-Limits", "X-Sentry-Error", "Content-Encoding", "Content-Type", "Keep-Alive",
    "Upgrade", "", " ", "a b", "\x00", "é",
])  # fmt: skip
_values = st.one_of(
    texts,
    number_texts,
    st.sampled_from([
        "chunked", "gzip, chunked", "close", "keep-alive", "gzip", "deflate", "http://[", "//", "0",
        "5, 5", "5, 6", "-1", "99999999999999999999999", "a=b; expires=Mon, 99 Foo 9999", "error:",
    ]),
)  # fmt: skip
_chunks = st.sampled_from([
    b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"-1\r\n", b"-5\r\nhello", b"ffffffffffffffffff\r\n",
    b"5;" + b"x" * 70_000, b"zz\r\n", b"0\r\n" + b"a: b\r\n" * 1000, b"", b"5\r\nh",
    b"0x5\r\nhello", b"HTTP/1.1 200 OK\r\n\r\n", b'{"id":1}', b"x" * 20_000, b"<html>",
])  # fmt: skip


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    head = [draw(_statuses)]
    for name, value in draw(st.lists(st.tuples(_names, _values), max_size=5)):
        head.append(f"{name}: {value}")
    end = draw(st.sampled_from(["\r\n", "\n", "\r"]))
    text = end.join([*head, "", ""]).encode("utf-8", "replace")
    return text + draw(st.lists(_chunks, max_size=3).map(b"".join))


@pytest.mark.parametrize("make_sender", [UrllibSender, RequestsSender])
@lengths(short=60, long=1_000)
def test_any_answer_comes_back_as_a_value(
    server: Server, make_sender: Callable[[], Any], examples: int
) -> None:
    @search(
        examples,
        answer=mutated(answers()),
        keeps=st.integers(0, 7).map(lambda number: not number),
    )
    @example(answer=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx", keeps=False)
    @example(answer=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nx", keeps=False)
    def check(answer: bytes, keeps: bool) -> None:
        server.script = [(answer, keeps)]
        sender = make_sender()
        try:
            check_outcome(sender.send(make_request(server.port)))
            again = sender.send(make_request(server.port))
            if isinstance(again, Failure):  # the server had kept the connection, or left with it
                patient = make_request(server.port, timeout_seconds=HANGING_SECONDS)
                again = sender.send(patient)
            assert isinstance(again, Response)
        finally:
            sender.close()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    # http.client reads a chunk of size -1 to the end of the stream, whatever that costs.
    "a chunk of size -1": (CHUNKED + b"-1\r\n", b"x" * 1_000_000),
    "a chunk without end": (CHUNKED + b"fffffffffff\r\n", b"x" * 1_000_000),
    "a line without end": (b"HTTP/1.1 ", b"x" * 1_000_000),
    "a chunk's line without end": (CHUNKED + b"5;", b"x" * 1_000_000),
    "trailers without end": (CHUNKED + b"0\r\n", b"a: b\r\n" * 100_000),
    "interim answers without end": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000),
    "a body without end": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1_000_000),
    "headers without end": (b"HTTP/1.1 200 OK\r\n", b"a: " + b"b" * 60_000 + b"\r\n"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("make_sender", [UrllibSender, RequestsSender])
def test_flood_of_an_answer_is_not_kept_in_memory(
    make_sender: Callable[[], Any], flood: tuple[bytes, bytes]
) -> None:
    with Server() as server:
        start, more = flood
        server.script = [(start + more * 30, False)]
        request = make_request(server.port, timeout_seconds=HANGING_SECONDS)
        sender = make_sender()
        sender.send(make_request(1))  # what is made once
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            outcome = sender.send(request)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            sender.close()
    check_outcome(outcome)
    assert "within" not in getattr(outcome, "message", "")  # it did not go on to its timeout
    assert peak - before < MEMORY_BYTES


# -- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_sender", [UrllibSender, RequestsSender])
@lengths(short=60, long=1_000)
def test_any_stored_destination_is_tried_or_refused(
    server: Server, make_sender: Callable[[], Any], examples: int
) -> None:
    here = f"127.0.0.1:{server.port}"
    # Nothing here is a name that anybody would be asked for.
    hosts = st.sampled_from([
        here, "[::1]:1", f"u:p@{here}", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:x", "", "..",
        "a..", "\ud800", "[", "[::1", "127.0.0.1:\r\nX: y", "\0", "x" * 300, "%00", here + "\0",
    ])  # fmt: skip
    schemes = st.sampled_from(["http", "https", "ftp", "", "HTTP", "unix", "file"])
    urls = st.builds(
        "{}://{}{}".format, schemes, hosts, st.sampled_from(["", "/ü", "/a b", "/\r\n"])
    )

    @search(
        examples,
        base_url=urls | st.sampled_from(["", "http", "http:/", "//"]),
        project=texts,
        proxy=st.none() | urls,
        ca_certs=st.none() | st.sampled_from(["", "/", "/dev/null", "\0", "/nonexistent"]),
        timeout_seconds=st.sampled_from([0, 0.1, 1e300, 2**62, 10**400, 86400 * 30]),
        key=texts,
        verify_ssl=st.booleans(),
    )
    @example(
        base_url=f"http://{here}", project="1", proxy=None, ca_certs=None,
        timeout_seconds=1e300, key="k", verify_ssl=True,
    )  # fmt: skip
    @example(
        base_url="https://..", project="1", proxy=f"http://{here}", ca_certs=None,
        timeout_seconds=20, key="k", verify_ssl=False,
    )  # fmt: skip
    def check(key: str, **settings: Any) -> None:
        server.script = []
        to = Destination(public_key=key, client=key, **settings)
        sender = make_sender()
        try:
            check_outcome(sender.send(build_request(event(1), to, NOW)))
        finally:
            sender.close()


def test_handshake_for_which_no_time_is_left_has_one_owner_of_its_descriptor(
    server: Server,
) -> None:
    """Found by the search above: wrap_socket asked for a timeout, got an exception, and left a
    second socket on the same descriptor, which closed it again whenever it was collected."""
    exchange = Exchange()
    exchange.begin(0.0)
    plain = socket.create_connection(("127.0.0.1", server.port))
    timed: Any = TimedSocket(plain, exchange)
    context = ssl.create_default_context()
    with context.wrap_socket(timed, server_hostname="a", do_handshake_on_connect=False) as secured:
        assert plain.fileno() == -1
        with pytest.raises(OSError):  # noqa: PT011 out of time, or what it heard was no TLS
            secured.do_handshake()
