"""Control characters wherever a DSN or a row of a file can put them: what goes over the wire is one
request with our own headers, or nothing. A raw socket looks at the bytes."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import raven

from raven_spool.errors import ConfigurationError
from raven_spool.model import Destination, Headers, Request
from raven_spool.protocol import build_request, parse_dsn
from tests.faults.events import make_transport
from tests.support import evidence
from tests.support.blocking import SENDERS, open_sender
from tests.support.spools import NOW, event

# The last two end in the bytes 0a and 0d, for whoever cuts characters down to a byte.
BREAKS = ["\r\n", "\n", "\r", "\r\n ", "\0", "\x0b", "\x7f", "\x85", "\u2028", " ", "\u010d\u010a"]
OURS = {
    *(b"host", b"accept", b"accept-encoding", b"content-length", b"content-type", b"user-agent"),
    *(
        b"connection",
        b"content-encoding",
        b"proxy-connection",
        b"proxy-authorization",
        b"x-sentry-auth",
        b"x-a",
    ),
}
REQUEST_LINE = re.compile(rb"(POST|CONNECT) [!-~]+ HTTP/1\.1")


class Wire:
    """Takes what is sent as it comes, one entry a connection, and says yes to it."""

    def __init__(self) -> None:
        self.heard: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._listen, args=(sock,), daemon=True).start()

    def _listen(self, sock: socket.socket) -> None:
        heard = bytearray()
        self.heard.append(heard)
        with sock, suppress(OSError):
            while piece := sock.recv(65536):
                heard += piece
                if is_whole(heard):
                    sock.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
                    return

    def check(self) -> int:
        """Whether each connection heard one request at most, and nothing in it was another's. How
        many did."""
        requests = [bytes(heard) for heard in self.heard if heard]
        for text in requests:
            head, _, body = text.partition(b"\r\n\r\n")
            first, *lines = re.split(rb"\r\n|\r|\n", head)
            assert REQUEST_LINE.fullmatch(first), text
            assert {line.partition(b":")[0].lower() for line in lines} <= OURS, text
            assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", head), text
            assert is_whole(text), text
            assert b"HTTP/1.1" not in body, text
        return len(requests)


def is_whole(heard: bytes) -> bool:
    head, end, body = heard.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= int(length[1] if length else 0)


def evil(broken: str) -> str:
    return f"{broken}X-Evil: 1{broken}{broken}GET /evil HTTP/1.1{broken}{broken}"


def planted(url: str, broken: str) -> Iterator[Request]:
    """By somebody who can write into the file."""
    to = Destination(base_url=url, project="1", public_key="k", proxy="", timeout_seconds=5)
    more, host = evil(broken), url.removeprefix("http://")
    tunnelled = replace(to, proxy=url, verify_ssl=False)
    for destination in (
        replace(to, project="1" + more),
        replace(to, base_url=url + more),
        replace(to, base_url=f"{url}/a{more}"),
        replace(to, base_url=f"http://127.0.0.1{more}:{host.partition(':')[2]}"),
        replace(to, public_key="k" + more),
        replace(to, secret_key="k" + more),
        replace(to, client="k" + more),
        replace(to, proxy=url + more),
        replace(to, proxy=f"http://u{more}:p{more}@{host}"),
        replace(tunnelled, base_url="https://host.invalid" + more),
        replace(tunnelled, base_url=f"https://host{more}.invalid"),
        replace(tunnelled, proxy=f"http://u{more}:p@{host}", base_url="https://host.invalid"),
    ):
        yield build_request(event(1), destination, NOW)
    for header in (("X-A", "1" + more), ("X-A" + more, "1")):
        headers: Headers = (header,)
        yield build_request(replace(event(1), headers=headers), to, NOW)
        yield replace(build_request(event(1), to, NOW), headers=headers)  # the sender's own look


@pytest.mark.evidence
@pytest.mark.parametrize("name", SENDERS)
def test_nothing_planted_in_a_file_puts_a_header_or_request_into_ours(name: str) -> None:
    sender, tried = open_sender(name), 0
    with Wire() as wire:
        for broken in BREAKS:
            for request in planted(wire.url, broken):
                sender.send(request)
                tried += 1
        sender.end()
        heard = wire.check()
    assert heard >= 3 * len(BREAKS)  # the keys and names are cleaned, and sent
    evidence.note(
        f"control characters in every field of a stored destination and in headers: {name}",
        promise=8, tried=f"{tried} requests", seen="no second header or request on the wire",
    )  # fmt: skip


@pytest.mark.parametrize("broken", [*BREAKS, "%0d%0a", "%00"])
def test_nothing_in_a_dsn_puts_a_header_or_request_into_ours(tmp_path: Path, broken: str) -> None:
    more = evil(broken)
    with Wire() as wire:
        scheme, _, host = wire.url.partition("://")
        transport = make_transport(tmp_path / "spool", timeout=5, shutdown_timeout=0)
        for user, path in (
            (f"k{more}:s", "1"),
            (f"k:s{more}", "1"),
            ("k:s", f"1{more}"),
            ("k:s", f"a{more}/1"),
            ("k:s", "1"),
        ):
            dsn = f"{scheme}://{user}@{host}/{path}"
            with suppress(Exception):  # raven's own refusals
                client = raven.Client(dsn, transport=transport, install_sys_hook=False)
                client.captureMessage("hello")
            with suppress(ConfigurationError):
                parsed = parse_dsn(dsn)
                words = (parsed.base_url, parsed.project, parsed.public_key, parsed.secret_key)
                assert not re.search(r"[\x00-\x20\x7f]", "".join(map(str, words)))
        transport.flush(10)
        transport.close(1)
        assert wire.check() >= 1
