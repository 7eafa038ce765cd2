"""A scripted Sentry ingest: HTTP/1.1, kept alive, every request recorded, faults on demand.

    with Ingest() as ingest:
        ingest.answer_with(status(503), ok())     # the first, then the second for all others
        ... send to ingest.dsn() ...
        ingest.wait_for(1)                        # one event accepted

As a program it prints its port and logs a JSON line per request:

    python -m tests.support.ingest --port 0 --log FILE --answer 429:60

and POST /_answer?503,ok changes what it answers.
"""

import argparse
import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.support.answers import Answer, Talk, ok, parse_answer
from tests.support.certificates import authority_file, server_context
from tests.support.reading import decode_body, find_event_id, read_body, read_headers

LOGGED = ("method", "path", "headers", "event_id", "connection", "at", "answer", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    raw_body: bytes  # as it came over the wire
    body: bytes  # decoded; empty if it can't be
    event_id: str | None
    connection: int  # 1 for the first connection the ingest took
    at: float
    answer: str
    status: int  # 0: none was heard

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300

    def as_json(self) -> str:
        row = {name: getattr(self, name) for name in LOGGED}
        return json.dumps(row | {"size_bytes": len(self.raw_body)})


class Ingest:
    """A server on loopback.

    Args:
        tls: serve https with a certificate of `ca_file`'s authority for `names`, or with that of
            the context.
        log: append a JSON line for each request to this file.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tls: bool | ssl.SSLContext = False,
        names: tuple[str, ...] = ("localhost", "127.0.0.1"),
        log: Path | str | None = None,
    ) -> None:
        self.host = "localhost" if tls else "127.0.0.1"
        self.port = port
        self.connections = 0
        self._tls = server_context(names) if tls is True else tls or None
        self._log = Path(log) if log else None
        self._script: deque[Answer] = deque([ok()])
        self._choose: Callable[[Seen], Answer | None] | None = None
        self._seen: list[Seen] = []
        self._accepted: list[str] = []
        self._news = threading.Condition()
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._reserved: socket.socket | None = None  # keeps the port while nobody listens

    def __enter__(self) -> "Ingest":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # What a test says.

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def ca_file(self) -> str:
        return authority_file()

    def dsn(
        self, key: str = "public", secret: str | None = "secret", project: int | str = 1
    ) -> str:
        scheme, _, rest = self.url.partition("://")
        user = f"{key}:{secret}" if secret else key
        return f"{scheme}://{user}@{rest}/{project}"

    def answer_with(self, *answers: Answer) -> None:
        """Give these answers one after another; the last one stays."""
        with self._news:
            self._script = deque(answers)
            self._choose = None

    def answer_by(self, choose: Callable[[Seen], Answer | None]) -> None:
        """Let `choose` answer by the request; where it says None, the script goes on."""
        with self._news:
            self._choose = choose

    def start(self) -> "Ingest":
        """Listen; after a `stop`, on the same port as before."""
        self._stopping = threading.Event()
        self._listener, self._reserved = self._reserved or self._bind(), None
        self._listener.listen(1024)
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)
        return self

    def _bind(self) -> socket.socket:
        """Connections to it are refused until it listens."""
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        return bound

    def stop(self) -> None:
        """Refuse new connections and cut those that live."""
        if self._listener is None:
            return
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        self._listener = None
        self._reserved = self._bind()  # else some other test's connection may get it
        with self._news:
            live, threads = list(self._live), self._threads
            self._threads = []
        for sock in live:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)

    def close(self) -> None:
        """Stop, and leave the port to others."""
        self.stop()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    # What a test asks.

    @property
    def requests(self) -> list[Seen]:
        with self._news:
            return list(self._seen)

    def event_ids(self) -> list[str]:
        """The ids of accepted events in the order they came, duplicates included."""
        with self._news:
            return list(self._accepted)

    def forget(self) -> None:
        """All requests so far."""
        with self._news:
            self._seen, self._accepted = [], []

    @property
    def live_connections(self) -> int:
        with self._news:
            return len(self._live)

    def wait_for(self, count: int, timeout_seconds: float = 20) -> list[str]:
        """Wait until so many different events were accepted; returns `event_ids()`."""
        self._wait(lambda: len(set(self._accepted)) >= count, timeout_seconds, f"{count} events")
        return self.event_ids()

    def wait_for_requests(self, count: int, timeout_seconds: float = 20) -> list[Seen]:
        """Wait until so many requests have come, whatever was answered."""
        self._wait(lambda: len(self._seen) >= count, timeout_seconds, f"{count} requests")
        return self.requests

    def _wait(self, is_so: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        with self._news:
            if not self._news.wait_for(is_so, timeout_seconds):
                got = [(seen.answer, seen.event_id) for seen in self._seen[-10:]]
                raise TimeoutError(
                    f"waited {timeout_seconds:g} s for {what}; got {len(self._seen)}, last {got}"
                )

    # Connections.

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        with self._news:
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
            thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._news:
                self.connections += 1
                number = self.connections
                self._live.add(sock)
            self._spawn(self._serve, sock, number)

    def _serve(self, plain: socket.socket, number: int) -> None:
        sock = plain
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                plain.settimeout(10)  # for the handshake
                sock = self._tls.wrap_socket(plain, server_side=True)
                sock.settimeout(None)
                with self._news:
                    self._live = (self._live - {plain}) | {sock}
            with sock.makefile("rb") as stream:
                while not self._stopping.is_set() and self._answer_one(sock, stream, number):
                    pass
        except (OSError, ValueError):
            pass  # the client went away, or we were stopped
        finally:
            with self._news:
                self._live -= {plain, sock}
            sock.close()

    def _answer_one(self, sock: socket.socket, stream: IO[bytes], number: int) -> bool:
        line = stream.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        method, path, _ = line
        headers = read_headers(stream)
        with self._news:
            reads_body = self._choose is not None or self._script[0].reads_body
        raw = read_body(stream, headers) if reads_body else b""
        if path.startswith("/_answer?"):
            return self._obey(sock, path)
        answer, event_id = self._record(method, path, headers, raw, number)
        lives = answer.play(Talk(sock, event_id, self._stopping))
        return lives and headers.get("connection", "").lower() != "close"

    def _obey(self, sock: socket.socket, path: str) -> bool:
        self.answer_with(*map(parse_answer, path.partition("?")[2].split(",")))
        return ok().play(Talk(sock, None, self._stopping))

    def _record(
        self, method: str, path: str, headers: dict[str, str], raw: bytes, number: int
    ) -> tuple[Answer, str | None]:
        body = decode_body(raw, headers.get("content-encoding", ""))
        event_id = find_event_id(body)

        def seen(answer: Answer | None) -> Seen:
            return Seen(
                method=method,
                path=path,
                headers=headers,
                raw_body=raw,
                body=body,
                event_id=event_id,
                connection=number,
                at=time.time(),
                answer=answer.name if answer else "",
                status=answer.status if answer else 0,
            )

        with self._news:
            answer = (self._choose and self._choose(seen(None))) or self._next_answer()
            self._seen.append(seen(answer))
            self._note(self._seen[-1])
            self._news.notify_all()
        return answer, event_id

    def _note(self, seen: Seen) -> None:
        if seen.accepted and seen.event_id:
            self._accepted.append(seen.event_id)
        if self._log:
            with self._log.open("a") as log:
                log.write(seen.as_json() + "\n")

    def _next_answer(self) -> Answer:
        return self._script.popleft() if len(self._script) > 1 else self._script[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted Sentry ingest for tests.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", help="append a JSON line for each request")
    parser.add_argument("--answer", default="ok", help="ok, 503, 429:60, limits:60:error, drop...")
    options = parser.parse_args()
    with Ingest(port=options.port, log=options.log) as ingest:
        ingest.answer_with(parse_answer(options.answer))
        print(ingest.port, flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
