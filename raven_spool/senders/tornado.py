"""Tornado's sender: AsyncHTTPClient in its curl form. The simple form keeps no connection alive.

Some of libcurl's ways are not ours, and what is set here turns them off: it sends a request again
whose kept connection died, takes one that died within the last second for alive, asks the
environment for proxies, and stops the loop if it is closed while it looks up a name.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any

import pycurl
from tornado.curl_httpclient import CurlAsyncHTTPClient, CurlError
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.ioloop import IOLoop

from raven_spool.model import MAX_ANSWER_BYTES, Request, Response
from raven_spool.senders._awaited import AwaitedChannelSender, is_spoken_to
from raven_spool.senders._common import build_response, headers_to_send
from raven_spool.senders._exchange import Exchange, say_where
from raven_spool.senders._route import Proxy, Route, find_route, load_ca

# An empty one keeps libcurl from sending its own.
_HEADERS = {"Accept": "", "Accept-Encoding": "identity", "Content-Type": "", "User-Agent": ""}

# When sending fails, libcurl leaves unread what the server had said before: 413, as a rule. So a
# large body waits until the server wants it, or has had the time to say no.
_LARGE_BYTES = 1 << 20  # curl's own limit for this
_REFUSAL_MS = 200


class TornadoSender(AwaitedChannelSender):
    """An `AsyncSender` on Tornado."""

    def __init__(self) -> None:
        super().__init__(_Channel)


class _Channel:
    """A client for one route; it keeps one connection, as there is one request at a time."""

    def __init__(self, request: Request, exchange: Exchange) -> None:
        # libcurl reads the CA's file by itself; a context of it would cost the loop that once more.
        route = find_route(replace(request, verify_ssl=False))
        self._hop = route.proxy or route
        self._exchange = exchange
        self._sockets: set[int] = set()
        self._options = _connection_options(route, request)
        self._options[pycurl.SOCKOPTFUNCTION] = self._note_socket
        self._client = _Client(force_instance=True, max_clients=1)
        self._client._multi.setopt(pycurl.M_MAXCONNECTS, 1)  # a fresh one takes a dead one's place

    async def post(self, request: Request) -> Response:
        # The others are those of addresses that were tried at the same time, and are closed.
        is_kept = not all(map(is_spoken_to, self._sockets))
        self._options[pycurl.FRESH_CONNECT] = not is_kept
        if not is_kept:
            self._sockets.clear()
            self._options[pycurl.RESOLVE] = await self._look_up()
        transfer = _Transfer(self._options, self._hop, self._exchange)
        self._client.conclude = transfer.conclude
        seconds = max(self._exchange.remaining_seconds(), 0.001)  # 0 ms would be without a limit
        answer = await self._client.fetch(
            HTTPRequest(
                request.url,
                method="POST",
                headers=_HEADERS | headers_to_send(request) | _expect(request.body),
                body=request.body,
                connect_timeout=seconds,
                request_timeout=seconds,
                follow_redirects=False,
                decompress_response=False,
                validate_cert=request.verify_ssl,
                prepare_curl_callback=transfer.prepare,
            ),
            raise_error=False,
        )
        return transfer.build_response(answer.code)

    async def close(self) -> None:
        self._client.close()

    def _note_socket(self, descriptor: int, _purpose: int) -> int:
        self._sockets.add(descriptor)
        return int(pycurl.SOCKOPT_OK)

    async def _look_up(self) -> list[str]:
        host, port = self._hop.host, self._hop.port
        if ":" in host:
            return []
        lookup = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        try:
            # Not asyncio.wait_for: until Python 3.12 a cancellation could get lost in it, and a
            # loop that waits for its cancelled tasks, as asyncio.run does, waited for ever.
            async with asyncio.timeout(self._exchange.remaining_seconds()):
                found = await lookup
        except socket.gaierror as exc:
            raise say_where(exc, host, port) from None
        return [f"{host}:{port}:{','.join(str(address[0]) for *_, address in found)}"]


def _connection_options(route: Route, request: Request) -> dict[int, Any]:
    proxy = route.proxy
    options = {
        pycurl.EXPECT_100_TIMEOUT_MS: _REFUSAL_MS,
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.NOPROXY: "",
        pycurl.PROXY: proxy.url if proxy else "",
        pycurl.PROXYHEADER: [": ".join(pair) for pair in proxy.headers.items()] if proxy else [],
        pycurl.VERBOSE: 0,  # else Tornado logs every header where its level is DEBUG
    }
    if route.tls and request.verify_ssl:
        ca = load_ca(request.ca_certs, lambda path, _changed_ns: path)
        file, directory = (None, ca) if Path(ca).is_dir() else (ca, None)
        options |= {pycurl.CAINFO: file, pycurl.CAPATH: directory}
    return options


def _expect(body: bytes) -> dict[str, str]:
    return {"Expect": "100-continue"} if len(body) > _LARGE_BYTES else {}


class _Client(CurlAsyncHTTPClient):
    """Tornado's resets libcurl's handle before anybody could ask it what became of a transfer."""

    conclude: Callable[[HTTPResponse], None]

    def fetch_impl(self, request: HTTPRequest, callback: Callable[[HTTPResponse], None]) -> None:
        def conclude(response: HTTPResponse) -> None:
            self.conclude(response)
            callback(response)

        super().fetch_impl(request, conclude)

    def close(self) -> None:
        # libcurl's last words would set a timer that nothing stops, or go to a loop that has ended.
        self._multi.setopt(pycurl.M_TIMERFUNCTION, lambda *_: None)
        if self.io_loop is not IOLoop.current():
            self._multi.setopt(pycurl.M_SOCKETFUNCTION, lambda *_: None)
        super().close()


class _Transfer:
    """One request and its answer, as libcurl tells of them."""

    def __init__(self, options: dict[int, Any], hop: Route | Proxy, exchange: Exchange) -> None:
        self._options = options
        self._hop = hop
        self._exchange = exchange
        self._headers: list[tuple[str, str]] = []
        self._is_whole = False
        self._body = b""

    def prepare(self, curl: Any) -> None:
        self._curl = curl
        for option, value in self._options.items():
            curl.setopt(option, value)
        curl.setopt(pycurl.PREREQFUNCTION, self._note_connected)
        curl.setopt(pycurl.NOPROGRESS, 0)
        curl.setopt(pycurl.XFERINFOFUNCTION, self._note_progress)
        curl.setopt(pycurl.SEEKFUNCTION, lambda *_: pycurl.SEEKFUNC_FAIL)  # not twice
        curl.setopt(pycurl.HEADERFUNCTION, self._take_line)
        curl.setopt(pycurl.WRITEFUNCTION, self._take_piece)

    def conclude(self, response: HTTPResponse) -> None:
        if isinstance(response.error, CurlError):
            response.code = self._curl.getinfo(pycurl.HTTP_CODE)
            response.error = self._explain(response.error.errno, str(response.error.message))

    def build_response(self, status: int) -> Response:
        if not self._is_whole:  # libcurl takes the end of the stream for the end of the headers
            raise IncompleteRead(b"")
        return build_response(status, self._headers, self._body, missing_bytes=None)

    def _note_connected(self, *_addresses: object) -> int:
        self._exchange.connected = True
        return int(pycurl.PREREQFUNC_OK)

    def _note_progress(self, _size: int, _received: int, size: int, sent: int) -> None:
        if size and size == sent:
            self._exchange.sent = True

    def _take_line(self, line: bytes) -> None:
        text = line.decode("latin-1").strip()
        if text.startswith("HTTP/"):  # again after a 1xx, or a proxy's answer to CONNECT
            self._headers, self._is_whole = [], False
        elif not text:
            self._is_whole = True
        elif not self._is_whole:  # else a trailer
            name, _, value = text.partition(":")
            self._headers.append((name, value.strip()))

    def _take_piece(self, piece: bytes) -> int:
        self._body += piece
        return len(piece) if len(self._body) <= MAX_ANSWER_BYTES else 0  # drops the connection

    def _explain(self, error: int, text: str) -> Exception | None:
        number = self._curl.getinfo(pycurl.OS_ERRNO)
        if self._curl.getinfo(pycurl.CONNECT_TIME):
            number = 0  # it is that of an address that was tried in vain before
        match error:
            case pycurl.E_WRITE_ERROR if len(self._body) > MAX_ANSWER_BYTES:
                return None
            case pycurl.E_OPERATION_TIMEDOUT:
                return TimeoutError()
            case pycurl.E_PARTIAL_FILE:
                return IncompleteRead(b"")
            case pycurl.E_GOT_NOTHING | pycurl.E_SEND_FAIL_REWIND:
                return RemoteDisconnected("the server closed the connection without an answer")
            case pycurl.E_SSL_CONNECT_ERROR | pycurl.E_PEER_FAILED_VERIFICATION:
                return ssl.SSLError(error, text)
            case pycurl.E_SSL_CACERT_BADFILE:
                return ssl.SSLError(error, text)
            case pycurl.E_COULDNT_CONNECT if number:
                return say_where(OSError(number, text), self._hop.host, self._hop.port)
            case pycurl.E_SEND_ERROR | pycurl.E_RECV_ERROR:
                return OSError(text)
            case _:
                return HTTPException(text) if self._exchange.connected else OSError(text)
