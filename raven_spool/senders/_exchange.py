"""One request and its answer under one deadline, and how far it got.

Neither http.client nor urllib3 bounds an exchange as a whole: their timeouts start again with each
read, so that a server which sends a byte a second holds them for ever. Here the sockets
themselves look at the clock. They wrap any socket (gevent's and eventlet's too) instead of
inheriting from the one that was current at import.
"""

import contextlib

# The first getaddrinfo of a str imports this codec, in C and so past `fork.hold_off`: after a fork
# in the middle of that the child found none for good ("unknown encoding: idna" at each send).
import encodings.idna  # noqa: F401
import io
import os
import socket
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, IncompleteRead
from typing import Any, cast

from raven_spool.errors import came_by_signal
from raven_spool.senders._network import STANDARD, Network


class Exchange:
    """The exchange that is under way. A sender runs one at a time, so its sockets share this."""

    __slots__ = ("_ends_at", "connected", "cut", "received_bytes", "sent", "timeout_seconds")

    def begin(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._ends_at = time.monotonic() + timeout_seconds
        self.connected = False  # TLS and proxy included: from here on bytes of the event may leave
        self.sent = False  # the whole request was handed to the kernel
        self.cut = False  # the server has closed its side
        self.received_bytes = 0

    def remaining_seconds(self) -> float:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def receive(self, count: int) -> None:
        self.received_bytes += count
        if self.received_bytes > _MAX_RECEIVED_BYTES:
            raise HTTPException("it has no end")


# Of an answer, framing and all. http.client has no bound of its own for a chunk of size -1 (it
# reads whatever comes, into memory), nor for trailers and interim answers.
_MAX_RECEIVED_BYTES = 1 << 20
_LEAST_SECONDS = 0.001  # 0 would mean: without blocking
_GATHERED_BYTES = 64 * 1024  # what is larger is not worth a copy


class TimedSocket:
    """A connected socket on which every wait ends with the exchange."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock = sock
        self._exchange = exchange
        self._gathered: list[bytes] | None = None
        self._what = os.fstat(sock.fileno())

    def is_ours(self) -> bool:
        """Whether nobody has closed it under us (a daemon closes all descriptors there are): its
        number is an application's file or connection then."""
        try:
            return os.path.samestat(os.fstat(self._sock.fileno()), self._what)
        except OSError:
            return False

    def is_quiet(self) -> bool:
        """Whether an idle connection is still good. It has nothing to say but its end."""
        if not self.is_ours():
            return False
        self._sock.setblocking(False)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        finally:
            self._sock.setblocking(True)  # eventlet's TLS sockets take no timeout before that
        return False

    def close(self) -> None:
        if self.is_ours():
            self._sock.close()
        else:
            self._sock.detach()

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Head and body leave in one packet, not in two: http.client sends them apart."""
        self._gathered = []
        try:
            yield
        finally:
            gathered, self._gathered = self._gathered, None
        self.sendall(b"".join(gathered or ()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def fileno(self) -> int:
        return self._sock.fileno()

    def settimeout(self, _seconds: float | None) -> None:
        """Ignored: urllib3 sets its own before each step."""

    def gettimeout(self) -> float:
        # SSLContext.wrap_socket asks for the handshake's, which is one wait in C. Never an error:
        # when it asks (CPython 3.11) a second socket owns the descriptor already, and would close
        # it once more when it is collected, whosever it is by then.
        try:
            return self._exchange.remaining_seconds()
        except TimeoutError:
            return _LEAST_SECONDS

    def sendall(self, content: bytes) -> None:
        if self._gathered is not None:
            if len(content) <= _GATHERED_BYTES:
                self._gathered.append(content)
                return
            head, self._gathered = b"".join(self._gathered), []
            self._send(head)
        self._send(content)

    def _send(self, content: bytes) -> None:
        # SSLSocket.sendall would start its timeout again with each record of 16 KiB.
        view = memoryview(content)
        while view:
            self._sock.settimeout(self._exchange.remaining_seconds())
            view = view[self._sock.send(view) :]

    def makefile(self, *_mode: Any) -> io.BufferedReader:
        # The raw file keeps the descriptor open after HTTPConnection has closed its socket, as
        # http.client counts on for the last answer of a connection.
        return io.BufferedReader(_TimedReader(self._sock, self._exchange))


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._sock.settimeout(self._exchange.remaining_seconds())
        count = self._raw.readinto(buffer)
        if not count:
            self._exchange.cut = True
        self._exchange.receive(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def open_socket(
    host: str, port: int, exchange: Exchange, network: Network = STANDARD
) -> socket.socket:
    """Connect to the first address that answers; each gets a fair share of the time left."""
    error: OSError | None = None
    try:
        found = network.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        found, error = [], exc
    for index, (family, kind, protocol, _, address) in enumerate(found):
        sock: socket.socket = network.socket.socket(family, kind, protocol)
        try:
            sock.settimeout(exchange.remaining_seconds() / (len(found) - index))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException as exc:
            sock.close()
            if not isinstance(exc, OSError) or came_by_signal(exc):
                raise
            error = exc
        else:
            return sock
    raise say_where(error or OSError("the name has no address"), host, port)


def say_where(error: OSError, host: str, port: int) -> OSError:
    # It may be the proxy that refuses, not the server. OSError picks the class by the number.
    if error.errno is None or isinstance(error, TimeoutError):
        return error
    # eventlet's text for it is ECONNREFUSED; a lookup's errors have numbers of their own.
    known = isinstance(error, socket.gaierror)
    text = error.strerror if known else os.strerror(error.errno)
    return OSError(error.errno, f"{text}: {host} port {port}")


class WatchedConnection(HTTPConnection):
    """What both senders add to http.client's connection (urllib3's is a subclass of it)."""

    exchange: Exchange

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is not None and not cast(TimedSocket, self.sock).is_ours():
            self.close()
        if self.sock is None:
            self.connect()
        self.exchange.connected = True
        try:
            with cast(TimedSocket, self.sock).gathering():
                super().request(*args, **options)
        except (ConnectionError, ssl.SSLError):
            # A server that has enough of a large body answers (often 413) and closes. Its answer
            # can still be read; if there is none, reading says so.
            return
        self.exchange.sent = True

    def getresponse(self) -> Any:  # urllib3's is of a class of its own
        response = super().getresponse()
        if self.exchange.cut:  # http.client takes the end of the stream for the end of the headers
            response.close()
            raise IncompleteRead(b"")
        return response
