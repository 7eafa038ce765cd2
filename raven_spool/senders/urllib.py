"""The standard library's sender: http.client, kept alive. Named after raven's urllib transport."""

import socket
import ssl
from functools import partial
from http.client import HTTPResponse
from typing import Any, cast
from urllib.parse import urlsplit

from raven_spool.model import MAX_ANSWER_BYTES, Outcome, Request, Response
from raven_spool.senders._common import (
    ChannelSender,
    build_response,
    explain_failure,
    headers_to_send,
)
from raven_spool.senders._exchange import Exchange, TimedSocket, WatchedConnection, open_socket
from raven_spool.senders._network import STANDARD, Network
from raven_spool.senders._route import Route, ask_for_tunnel


class UrllibSender(ChannelSender):
    """A `Sender` on http.client."""

    def __init__(self, network: Network = STANDARD) -> None:
        super().__init__(partial(_Connection, network), network)

    def send(self, request: Request) -> Outcome:
        outcome: Outcome | None = None
        with self._network.limit(request.timeout_seconds):
            outcome = super().send(request)
        return outcome or explain_failure(TimeoutError(), self._exchange)


class _Connection(WatchedConnection):
    def __init__(self, network: Network, route: Route, exchange: Exchange) -> None:
        hop = route.proxy or route
        super().__init__(hop.host, hop.port)
        self.exchange = exchange
        self._network = network
        self._route = route
        self._headers = {"Host": route.netloc}
        if route.proxy and not route.tls:
            self._headers |= route.proxy.headers

    def post(self, request: Request) -> Response:
        # A server may close an idle connection at any time. Seen now, this costs a new connection;
        # seen after sending, it could mean a second delivery.
        if self.sock is not None and not cast(TimedSocket, self.sock).is_quiet():
            self.close()
        headers = headers_to_send(request) | self._headers
        self.request("POST", self._target(request.url), request.body, headers)
        with self.getresponse() as response:
            return self._read(response)

    def connect(self) -> None:
        sock = self._keep(open_socket(self.host, self.port, self.exchange, self._network))
        try:
            if self._route.tls:
                self._secure(sock, self._route.tls)
        except BaseException:
            self.close()
            raise

    def _secure(self, sock: TimedSocket, context: ssl.SSLContext) -> None:
        if self._route.proxy:
            _open_tunnel(sock, self._route)
        self._route.host.encode("idna")  # wrap_socket would refuse it with its socket left open
        secured = context.wrap_socket(
            cast(Any, sock), server_hostname=self._route.host, do_handshake_on_connect=False
        )
        self._keep(secured).do_handshake()  # within wrap_socket, eventlet leaks what fails

    def _keep(self, sock: socket.socket) -> TimedSocket:
        timed = TimedSocket(sock, self.exchange)
        self.sock = cast(Any, timed)
        return timed

    def _target(self, url: str) -> str:
        if self._route.proxy and not self._route.tls:
            return url
        parts = urlsplit(url)
        return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"

    def _read(self, response: HTTPResponse) -> Response:
        body = response.read(MAX_ANSWER_BYTES + 1)
        if len(body) > MAX_ANSWER_BYTES:
            self.close()
        headers = response.getheaders()
        return build_response(response.status, headers, body, missing_bytes=response.length)


def _open_tunnel(sock: TimedSocket, route: Route) -> None:
    sock.sendall(ask_for_tunnel(route))
    response = HTTPResponse(cast(Any, sock), method="CONNECT")
    with response:
        response.begin()
    if not 200 <= response.status < 300:
        raise OSError(f"the proxy refused the tunnel: {response.status} {response.reason}")
