"""The standard library's sender: http.client, kept alive. Named after raven's urllib transport."""

import select
from http.client import HTTPResponse
from typing import Any, cast
from urllib.parse import urlsplit

from raven_spool.model import MAX_ANSWER_BYTES, Request, Response
from raven_spool.senders._common import ChannelSender, build_response, headers_to_send
from raven_spool.senders._exchange import Exchange, TimedSocket, WatchedConnection, open_socket
from raven_spool.senders._route import Route


class UrllibSender(ChannelSender):
    """A `Sender` on http.client."""

    def __init__(self) -> None:
        super().__init__(_Connection)


class _Connection(WatchedConnection):
    def __init__(self, route: Route, exchange: Exchange) -> None:
        hop = route.proxy or route
        super().__init__(hop.host, hop.port)
        self.exchange = exchange
        self._route = route
        self._headers = {"Host": route.netloc}
        if route.proxy and not route.tls:
            self._headers |= route.proxy.headers

    def post(self, request: Request) -> Response:
        # A server may close an idle connection at any time. Seen now, this costs a new connection;
        # seen after sending, it could mean a second delivery.
        if self.sock is not None and _is_readable(self.sock):
            self.close()
        headers = headers_to_send(request) | self._headers
        self.request("POST", self._target(request.url), request.body, headers)
        with self.getresponse() as response:
            return self._read(response)

    def connect(self) -> None:
        sock = open_socket(self.host, self.port, self.exchange)
        try:
            self.sock = cast(Any, TimedSocket(self._secure(sock), self.exchange))
        except BaseException:
            sock.close()
            raise

    def _secure(self, sock: Any) -> Any:
        context = self._route.tls
        if context is None:
            return sock
        timed = cast(Any, TimedSocket(sock, self.exchange))
        if self._route.proxy:
            _open_tunnel(timed, self._route)
        return context.wrap_socket(timed, server_hostname=self._route.host)

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


def _is_readable(sock: Any) -> bool:
    # An idle connection has nothing to say but its end. eventlet removes select.poll.
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _open_tunnel(sock: Any, route: Route) -> None:
    assert route.proxy is not None
    host = f"[{route.host}]" if ":" in route.host else route.host
    lines = [f"CONNECT {host}:{route.port} HTTP/1.1", f"Host: {host}:{route.port}"]
    lines += [f"{name}: {value}" for name, value in route.proxy.headers.items()]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    response = HTTPResponse(sock, method="CONNECT")
    with response:
        response.begin()
    if not 200 <= response.status < 300:
        raise OSError(f"the proxy refused the tunnel: {response.status} {response.reason}")
