"""What the blocking senders share: kept connections, headers, and the naming of failures."""

import re
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import HTTPException, IncompleteRead
from typing import Protocol

from raven_spool.errors import came_by_signal
from raven_spool.model import MAX_ANSWER_BYTES, Failure, Fault, Outcome, Request, Response
from raven_spool.senders._exchange import Exchange
from raven_spool.senders._network import STANDARD, Network
from raven_spool.senders._route import Route, find_route, route_key

MAX_CHANNELS = 8  # per worker; a spool seldom has more destinations than that
MAX_MESSAGE_CHARS = 200

# What goes wrong on a network. http.client's own limits (100 headers, 64 KiB a line) are in it.
TROUBLE = (OSError, HTTPException, ValueError)

# The connection's business, not the event's. Without Accept-Encoding both libraries say
# "identity", so that no small answer unpacks to a large one.
_OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "host", "transfer-encoding"}
)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110's token
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # latin-1 without what could start another header

_PROXY_AUTHENTICATION_REQUIRED = 407


class Channel(Protocol):
    """One kept connection."""

    def post(self, request: Request) -> Response:
        """Send the request and read the answer, or raise one of TROUBLE."""

    def close(self) -> None: ...


class ChannelSender:
    """A sender over kept connections, the least recently used of which is closed for a new one."""

    def __init__(
        self, open_channel: Callable[[Route, Exchange], Channel], network: Network = STANDARD
    ) -> None:
        self._open_channel = open_channel
        self._network = network
        self._exchange = Exchange()
        self._channels: OrderedDict[tuple[object, ...], Channel] = OrderedDict()

    def send(self, request: Request) -> Outcome:
        self._exchange.begin(request.timeout_seconds)
        key: tuple[object, ...] = ()
        try:
            key = route_key(request)
            response = self._channel(key, request).post(request)
        except BaseException as exc:
            self._drop(key)  # whatever cut the exchange: the connection's state is unknown
            if not isinstance(exc, TROUBLE) or came_by_signal(exc):
                raise
            return explain_failure(exc, self._exchange)
        return refuse_proxy_login(response)

    def close(self) -> None:
        while self._channels:
            self._drop(next(iter(self._channels)))

    def _channel(self, key: tuple[object, ...], request: Request) -> Channel:
        if key in self._channels:
            self._channels.move_to_end(key)
            return self._channels[key]
        channel = self._open_channel(find_route(request, self._network), self._exchange)
        self._channels[key] = channel
        if len(self._channels) > MAX_CHANNELS:
            self._drop(next(iter(self._channels)))
        return channel

    def _drop(self, key: tuple[object, ...]) -> None:
        channel = self._channels.pop(key, None)
        if channel is not None:
            with suppress(Exception):
                channel.close()


def headers_to_send(request: Request) -> dict[str, str]:
    """Without the connection's own.

    Raises:
        ValueError: one is no header. Libraries differ: http.client lets folded lines pass, Twisted
            makes spaces of them, and aiohttp and libcurl know no wrong name.
    """
    headers = {name: value for name, value in request.headers if name.lower() not in _OURS}
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(headers[name]) for name in headers):
        raise ValueError("no header")
    return headers


def join_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers:
        low = name.lower()
        joined[low] = f"{joined[low]}, {value}" if low in joined else value
    return joined


def build_response(
    status: int, headers: Iterable[tuple[str, str]], body: bytes, *, missing_bytes: int | None
) -> Response:
    # Told to read so many bytes at most, both libraries take an early end for a whole body.
    if missing_bytes and len(body) <= MAX_ANSWER_BYTES:
        raise IncompleteRead(body, missing_bytes)
    return Response(status=status, headers=join_headers(headers), body=body[:MAX_ANSWER_BYTES])


def explain_failure(exc: BaseException, exchange: Exchange) -> Failure:
    fault = _name_fault(exc, connected=exchange.connected)
    message = " ".join(_describe(exc, exchange).split())[:MAX_MESSAGE_CHARS]
    return Failure(fault=fault, message=message, maybe_delivered=exchange.sent)


def refuse_proxy_login(response: Response) -> Outcome:
    # Only a proxy says 407, and as a plain answer it would condemn the event.
    if response.status != _PROXY_AUTHENTICATION_REQUIRED:
        return response
    message = "the proxy asks for credentials (407)"
    return Failure(fault=Fault.CONNECT, message=message, maybe_delivered=False)


def _name_fault(exc: BaseException, *, connected: bool) -> Fault:
    match exc:
        case TimeoutError():
            return Fault.TIMEOUT
        case ssl.SSLError() if not connected:
            return Fault.TLS
        case OSError() | IncompleteRead() if connected:
            return Fault.RESET
        case OSError() | HTTPException() if not connected:
            return Fault.CONNECT
        case _:
            return Fault.GARBAGE


def _describe(exc: BaseException, exchange: Exchange) -> str:
    match exc:
        case TimeoutError():
            return f"{_stage(exchange)} within {exchange.timeout_seconds:g} s"
        case ssl.SSLCertVerificationError():
            return f"the server's certificate is not accepted: {exc.verify_message}"
        case OSError():
            return exc.strerror or str(exc)
        case IncompleteRead():
            return "the server closed the connection in the middle of its answer"
        case HTTPException():
            return f"the answer is not HTTP: {exc!r}"
        case _:  # a ValueError's text may repeat a header's value, credentials and all
            what = "the answer is not" if exchange.sent else "the request can't be sent as"
            return f"{what} HTTP ({type(exc).__name__})"


def _stage(exchange: Exchange) -> str:
    if exchange.sent:
        return "no whole answer"
    return "the request could not be sent" if exchange.connected else "no connection"
