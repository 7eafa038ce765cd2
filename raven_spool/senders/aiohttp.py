"""aiohttp's sender, for asyncio; kept alive."""

import asyncio
import math
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from typing import Any, cast

import aiohttp

from raven_spool.model import MAX_ANSWER_BYTES, Request, Response
from raven_spool.senders._awaited import AwaitedChannelSender, is_spoken_to
from raven_spool.senders._common import build_response, headers_to_send
from raven_spool.senders._exchange import Exchange, say_where
from raven_spool.senders._route import find_route

# The server knows when to close. aiohttp's own 15 s would cost a quiet application a handshake
# for each event.
_KEPT_SECONDS = 3600
_PIECE_BYTES = 64 * 1024  # what asyncio's transports buffer before they say pause


class AiohttpSender(AwaitedChannelSender):
    """An `AsyncSender` on aiohttp."""

    def __init__(self) -> None:
        super().__init__(_Channel)


class _Channel:
    """A session for one route; it keeps one connection, as there is one request at a time."""

    def __init__(self, request: Request, exchange: Exchange) -> None:
        route = find_route(request)
        self._exchange = exchange
        self._body = _Body(b"")
        self._idle: _Idle | None = None
        self._headers = {"Accept-Encoding": "identity"}
        self._proxy: dict[str, Any] = {}
        if route.proxy:
            self._proxy = {"proxy": route.proxy.url, "proxy_headers": route.proxy.headers}
            if not route.tls:  # aiohttp's proxy_headers are for CONNECT alone
                self._headers |= route.proxy.headers
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                keepalive_timeout=_KEPT_SECONDS,
                socket_factory=partial(_Socket, self._note_refusal),
                ssl=route.tls or True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
            auto_decompress=False,
        )

    async def post(self, request: Request) -> Response:
        if self._idle:
            self._idle.end()
        self._body = body = _Body(request.body)
        options = {"headers": headers_to_send(request) | self._headers, **self._proxy}
        # Without the threshold, an end 5 seconds away or more would be put off to a whole second.
        limit = aiohttp.ClientTimeout(request.timeout_seconds, ceil_threshold=math.inf)
        try:
            async with self._session.post(
                request.url, data=body, timeout=limit, allow_redirects=False, **options
            ) as answer:
                response = await _read(answer)
        except aiohttp.ClientError as exc:
            cause = _find_cause(exc)
        else:
            if not body.is_sent:  # an early answer
                body.abort()
            self._idle = _Idle(body.transport) if body.transport else None
            self._body = _Body(b"")  # an idle channel keeps no event in memory
            return response
        finally:
            self._exchange.connected = body.transport is not None
            self._exchange.sent = body.is_sent
        raise cause  # out here: inside, the two would refer to each other and keep their frames

    async def close(self) -> None:
        try:
            self._body.abort()
        finally:
            await self._session.close()

    def _note_refusal(self) -> None:
        self._body.is_refused = True


class _Body(aiohttp.Payload):
    """Goes out in pieces, between which the loop goes on, and knows how far it got."""

    _value: bytes

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)
        self._is_out = False
        self.is_refused = False
        self.transport: asyncio.WriteTransport | None = None

    @property
    def is_sent(self) -> bool:
        return self._is_out and not self.is_refused

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: Any) -> None:
        self.transport = writer.transport
        for end in range(_PIECE_BYTES, len(self._value) + _PIECE_BYTES, _PIECE_BYTES):
            if self.is_refused:
                return
            await writer.write(self._value[end - _PIECE_BYTES : end], drain=False)
            # What the transport has taken it may yet deliver, so this comes before the waiting.
            self._is_out = end >= len(self._value)
            await writer.drain()
            await asyncio.sleep(0)  # to see an answer, or the end, before the next piece

    def abort(self) -> None:
        """Merely closed, a transport waits for the server to take what it still holds."""
        if self.transport:
            self.transport.abort()


class _Idle(asyncio.Protocol):
    """Listens on a kept connection between two exchanges, in place of aiohttp's own protocol. A
    server has nothing to say there but its end. aiohttp (3.14.5) would take what it says unasked
    for the answer to the next request, and keep any amount of it."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._aiohttps = transport.get_protocol()
        transport.set_protocol(self)

    def data_received(self, _data: bytes) -> None:
        self._transport.abort()

    def eof_received(self) -> bool | None:
        return cast(asyncio.Protocol, self._aiohttps).eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._aiohttps.connection_lost(exc)

    def end(self) -> None:
        if not self._transport.is_closing():
            self._transport.set_protocol(self._aiohttps)
            if is_spoken_to(self._transport.get_extra_info("socket").fileno()):
                self._transport.abort()  # the loop has not looked at it yet


class _Socket(socket.socket):
    """A server that has enough of a large body answers (often 413) and closes. asyncio would drop
    that answer, unread, at the first send that fails; reading says as well that it's over."""

    def __init__(self, note_refusal: Callable[[], None], address: aiohttp.AddrInfoType) -> None:
        super().__init__(*address[:3])
        self._note_refusal = note_refusal

    def send(self, content: Any, *flags: int) -> int:
        try:
            return super().send(content, *flags)
        except ConnectionError:
            self._note_refusal()
            return len(content)

    def sendmsg(self, contents: Any, *_nothing: Any) -> int:  # asyncio's since Python 3.12
        return self.send(b"".join(contents))


async def _read(answer: aiohttp.ClientResponse) -> Response:
    try:
        body = await answer.content.readexactly(MAX_ANSWER_BYTES + 1)
    except asyncio.IncompleteReadError as exc:
        body = exc.partial
    headers = (
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers
    )
    return build_response(answer.status, headers, body, missing_bytes=None)


def _find_cause(exc: aiohttp.ClientError) -> Exception:
    """What the standard library would have raised."""
    match exc:
        case aiohttp.ClientSSLError():
            return exc.os_error
        case aiohttp.ClientConnectorError() if not exc.os_error.args:
            # asyncio's bare ConnectionResetError; ssl by itself says it so.
            return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the server closed it in the handshake")
        case aiohttp.ClientConnectorError():
            return say_where(exc.os_error, exc.host, exc.port or 0)
        case aiohttp.ClientHttpProxyError():
            return OSError(f"the proxy refused the tunnel: {exc.status} {exc.message}")
        case aiohttp.ClientResponseError():
            return HTTPException(" ".join(exc.message.split()))
        case aiohttp.ClientOSError() if exc.errno:
            return OSError(exc.errno, os.strerror(exc.errno))
        case TimeoutError() | ValueError():
            return exc
        case _:
            return ConnectionResetError("the server closed the connection before its answer's end")
