"""A small forward proxy: plain requests in absolute form, CONNECT, and a password if wanted."""

import base64
import http.client
import socket
import socketserver
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A request as the proxy saw it."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case


class Proxy:
    """A proxy on loopback; with `user` and `password` it lets nobody else through."""

    def __init__(self, *, user: str | None = None, password: str = "") -> None:
        self.passed: list[Passed] = []
        self.wanted = None
        if user is not None:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            self.wanted = f"Basic {pair}"
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False  # kept-alive clients may outlive the test

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is part of the tests


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._may_pass():
            return
        parts = urlsplit(self.path)
        assert parts.hostname is not None
        upstream = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=10)
        try:
            upstream.request("POST", parts.path, body, self._headers_to_pass())
            answer = upstream.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
        finally:
            upstream.close()

    def do_CONNECT(self) -> None:
        if not self._may_pass():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as upstream:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_relay, args=(upstream, self.connection), daemon=True)
            back.start()
            _relay(self.connection, upstream)
            back.join(10)
        self.close_connection = True

    def _may_pass(self) -> bool:
        headers = {name.lower(): value for name, value in self.headers.items()}
        proxy = self.server.proxy
        proxy.passed.append(Passed(method=self.command, target=self.path, headers=headers))
        if proxy.wanted in (None, headers.get("proxy-authorization")):
            return True
        self._answer(407, [("Proxy-Authenticate", "Basic")], b"")
        return False

    def _headers_to_pass(self) -> dict[str, str]:
        own = ("proxy-authorization", "content-length", "connection")
        return {name: value for name, value in self.headers.items() if name.lower() not in own}

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _relay(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
