"""What the scripted ingest can answer, good and bad."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Talk:
    """One request's connection, in the hands of an answer."""

    sock: socket.socket
    event_id: str | None
    stopping: threading.Event

    def write(self, text: bytes) -> None:
        self.sock.sendall(text)

    def write_slowly(self, pieces: Iterable[bytes], seconds: float) -> None:
        for piece in pieces:
            if self.stopping.wait(seconds):
                return
            self.write(piece)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`play` answers and says whether the connection lives on."""

    name: str
    play: Callable[[Talk], bool]
    status: int = 0  # 0: the client hears no whole answer
    reads_body: bool = True


class Gate:
    """Holds an answer until the test lets it go."""

    def __init__(self) -> None:
        self._arrived = threading.Semaphore(0)
        self._open = threading.Event()

    def wait_until_held(self, timeout_seconds: float = 10) -> None:
        if not self._arrived.acquire(timeout=timeout_seconds):
            raise TimeoutError(f"no request came within {timeout_seconds:g} s")

    def release(self) -> None:
        self._open.set()

    def hold(self, stopping: threading.Event) -> None:
        self._arrived.release()
        while not self._open.wait(0.05) and not stopping.is_set():
            pass


def render(status: int, headers: Pairs = (), body: bytes = b"{}") -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def ok(headers: Pairs = ()) -> Answer:
    """200 with the event's id, as Sentry says it."""
    head = (("Content-Type", "application/json"), *headers)

    def play(talk: Talk) -> bool:
        talk.write(render(200, head, json.dumps({"id": talk.event_id}).encode()))
        return True

    return Answer(name="ok", play=play, status=200)


def status(code: int, headers: Pairs = (), body: bytes = b'{"detail":"scripted"}') -> Answer:
    """Any status; the connection lives on."""
    return Answer(name=str(code), play=_writing(render(code, headers, body)), status=code)


def too_many(retry_after: str | None = None) -> Answer:
    """429, bare or with Retry-After."""
    return status(429, () if retry_after is None else (("Retry-After", retry_after),))


def limits(value: str, code: int = 429) -> Answer:
    """An X-Sentry-Rate-Limits header, on 429 or any other status."""
    return status(code, (("X-Sentry-Rate-Limits", value),))


def html(code: int = 200) -> Answer:
    """A captive portal's page."""
    return status(
        code, (("Content-Type", "text/html"),), b"<html><body>Please log in</body></html>"
    )


def redirect(location: str, code: int = 302) -> Answer:
    return status(code, (("Location", location),), b"")


def closing(then: Answer | None = None) -> Answer:
    """A good answer, after which the server closes the connection without having said so."""
    then = then or ok()
    return Answer(name="closing", play=lambda talk: then.play(talk) and False, status=then.status)


def slow(seconds: float, then: Answer | None = None) -> Answer:
    """Wait, then answer."""
    then = then or ok()

    def play(talk: Talk) -> bool:
        talk.stopping.wait(seconds)
        return then.play(talk)

    return Answer(name=f"slow:{seconds:g}", play=play, status=then.status)


def held(gate: Gate, then: Answer | None = None) -> Answer:
    """Wait for the gate, then answer."""
    then = then or ok()

    def play(talk: Talk) -> bool:
        gate.hold(talk.stopping)
        return then.play(talk)

    return Answer(name="held", play=play, status=then.status)


def reset() -> Answer:
    """RST instead of an answer."""

    def play(talk: Talk) -> bool:
        talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    return Answer(name="reset", play=play)


def drop() -> Answer:
    """Close without an answer."""
    return Answer(name="drop", play=lambda talk: False)


def half() -> Answer:
    """Close in the middle of the body."""
    return _cut("half", b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id"')


def half_chunks() -> Answer:
    """Close in the middle of a chunk."""
    return _cut("half-chunks", b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"id')


def half_headers() -> Answer:
    """Close in the middle of the headers: to http.client this looks like a whole 200."""
    return _cut("half-headers", b"HTTP/1.1 200 OK\r\nContent-Le")


def until_close() -> Answer:
    """A whole answer of HTTP/1.0, whose end is the connection's."""
    text = b'HTTP/1.0 200 OK\r\n\r\n{"id":""}'
    return Answer(name="until-close", play=lambda talk: talk.write(text) or False, status=200)


def garbage() -> Answer:
    """Not HTTP."""
    return _cut("garbage", b"\x00\xff\x00 what is this\r\n\r\n")


def silence() -> Answer:
    """No answer at all, on an open connection."""
    return Answer(name="silence", play=lambda talk: talk.stopping.wait(600) and False)


def slow_reader(seconds: float = 0.05) -> Answer:
    """Take the body in small bites, and never answer."""

    def play(talk: Talk) -> bool:
        while not talk.stopping.wait(seconds) and talk.sock.recv(16384):
            pass
        return False

    return Answer(name="slow-reader", play=play, reads_body=False)


def trickle(seconds: float = 0.05) -> Answer:
    """A good answer, one byte at a time."""
    text = render(200, (("X-Padding", "x" * 600),))
    return _slowly("trickle", lambda: (text[i : i + 1] for i in range(len(text))), seconds)


def trickle_body(seconds: float = 0.05) -> Answer:
    """Good headers at once, then the body one byte at a time."""
    text = render(200, (), b"{" + b" " * 600 + b"}")
    head, _, body = text.partition(b"\r\n\r\n")
    pieces = [head + b"\r\n\r\n", *(body[i : i + 1] for i in range(len(body)))]
    return _slowly("trickle-body", lambda: pieces, seconds)


def endless_headers(seconds: float = 0.0) -> Answer:
    """Headers without an end, one each so many seconds."""

    def pieces() -> Iterable[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        for number in range(100_000):
            yield b"X-Header-%d: more\r\n" % number

    return _slowly("endless-headers", pieces, seconds)


def endless(name: str, start: bytes, piece: bytes) -> Answer:
    """A start, and then the same piece again and again, as fast as it is taken."""

    def play(talk: Talk) -> bool:
        talk.write(start)
        while not talk.stopping.is_set():
            talk.write(piece)
        return False

    return Answer(name=name, play=play)


def unasked(then: Answer, arrived: threading.Event) -> Answer:
    """A good answer, and another one when the client has had it and asks nothing more."""

    def play(talk: Talk) -> bool:
        lives = then.play(talk)
        talk.stopping.wait(0.1)  # so that it is no part of the first one's packet
        talk.write(render(200, (), b'{"id":"nobody asked"}'))
        arrived.set()
        return lives

    return Answer(name="unasked", play=play, status=then.status)


def wrong_length(difference: int = 100) -> Answer:
    """A Content-Length that promises so many bytes more than come; the connection stays open."""
    text = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{"id":1}' % (8 + difference)

    def play(talk: Talk) -> bool:
        talk.write(text)
        return talk.stopping.wait(600) and False

    return Answer(name="wrong-length", play=play)


def early(code: int = 413) -> Answer:
    """Answer and close while the client is still sending its body."""
    play = _writing(render(code, (("Connection", "close"),)), lives=False)
    return Answer(name=f"early:{code}", play=play, status=code, reads_body=False)


def parse_answer(text: str) -> Answer:
    """An answer from its name: `ok`, a status, `429:60`, `limits:60:error:org`, `slow:2`, `drop`.

    The names without arguments are those of the functions here, with dashes.
    """
    name, _, rest = text.partition(":")
    match name:
        case "429":
            return too_many(rest or None)
        case "limits":
            return limits(rest)
        case "slow":
            return slow(float(rest))
        case _ if name.isdigit():
            return status(int(name))
        case _:
            return _NAMED[name]()


_NAMED: dict[str, Callable[[], Answer]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        *(ok, html, closing, reset, drop, half, half_chunks, half_headers, garbage, silence),
        *(slow_reader, trickle, trickle_body, endless_headers, wrong_length, early),
    )
}


def _writing(text: bytes, *, lives: bool = True) -> Callable[[Talk], bool]:
    def play(talk: Talk) -> bool:
        talk.write(text)
        return lives

    return play


def _cut(name: str, text: bytes) -> Answer:
    return Answer(name=name, play=_writing(text, lives=False))


def _slowly(name: str, pieces: Callable[[], Iterable[bytes]], seconds: float) -> Answer:
    def play(talk: Talk) -> bool:
        talk.write_slowly(pieces(), seconds)
        return False

    return Answer(name=name, play=play)
