"""An ingest that has certainly read the whole body before it answers, as fast as can be had.

nginx where it is installed (Debian: `apt install nginx`). A plain `return 200` answers before the
body is in, so a `location` buffers the request and proxies it to a second server of the same
nginx; the log then tells how many bytes came. Without nginx, a loop of our own in a process of its
own: slower, so that its own time dulls every quotient.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_SECONDS = 10.0

_NGINX = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    log_format lengths "$status $request_length";
    access_log {directory}/access.log lengths buffer=64k;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_body_buffer_size 1m;
    client_max_body_size 16m;
    keepalive_requests 1000000;
    upstream second {{ server unix:{directory}/second; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://second;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering on;
        }}
    }}
    server {{
        listen unix:{directory}/second;
        access_log off;
        location / {{ default_type application/json; return 200 '{{"id":"-"}}'; }}
    }}
}}
"""
_ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"id":"-"}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    port: int
    name: str


@contextmanager
def run_sink(directory: Path) -> Iterator[Sink]:
    port = _find_port()
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    command = [sys.executable, __file__, str(port)]
    name = "own asyncio sink (nginx is not installed: its own cost dulls the quotients)"
    if nginx:
        config = directory / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # its default may not enter `directory`
        config.write_text(_NGINX.format(directory=directory, port=port, user=user))
        command = [nginx, "-p", str(directory), "-e", str(directory / "error.log"), "-c"]
        command.append(str(config))
        name = (
            f"nginx {_read_version(nginx)}, the body buffered whole, then proxied to a second hop"
        )
    with subprocess.Popen(command) as process:
        try:
            _wait_for_port(port, process)
            yield Sink(port=port, name=name)
        finally:
            process.terminate()


def read_lengths(directory: Path) -> list[int] | None:
    """What nginx logged of each request, once it has ended: its length, all with status 200."""
    log = directory / "access.log"
    if not log.exists():
        return None
    lines = [line.split() for line in log.read_text().splitlines()]
    assert all(status == "200" for status, _ in lines), "the sink refused requests"
    return [int(length) for _, length in lines]


def _find_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _read_version(nginx: str) -> str:
    found = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    return found.strip().rpartition("/")[2]


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("the sink did not start")


# -- our own, for machines without nginx ----------------------------------------------------------


class _Reading(asyncio.Protocol):
    """Counts in what Content-Length promises, then answers."""

    def __init__(self) -> None:
        self._head = b""
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head, blank, data = (self._head + data).partition(b"\r\n\r\n")
            if not blank:
                self._head = head
                return
            self._head = b""
            self._missing = _content_length(head)
        self._missing -= len(data)
        if self._missing <= 0:
            self._missing = 0
            self._transport.write(_ANSWER)


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0])


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Reading, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
