"""gevent's and eventlet's senders yield to their hub, whether or not the process is patched."""

import importlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, Self

import pytest

from raven_spool.model import Failure, Fault, Request
from raven_spool.senders._network import Network
from raven_spool.senders._route import tls_context
from tests.support import answers, tool
from tests.support.answers import Gate
from tests.support.blocking import open_sender
from tests.support.bugsink import ROOT
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

LIBRARIES = ["gevent", "eventlet"]
NO_NAME = "hangs.example"
TICKS = 3  # one a millisecond, if the machine is idle; a hub that is blocked ticks not at all
SHORT_SECONDS = 0.25
ATTEMPTS = 5  # on a busy machine nobody may tick for so long
BOUND_SECONDS = 20  # generous: the machine may be busy

# Reads requests from its input, one a line; tells of ticks and outcomes.
PROGRAM = """
import _socket, _thread, importlib, json, sys, time

library, patching, no_name = sys.argv[1:]
never = _thread.allocate_lock()
never.acquire()

def patch():
    if library == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    else:
        importlib.import_module("eventlet").monkey_patch()

def tick():
    while True:
        green.sleep(0.001)
        print("tick", time.monotonic(), flush=True)

if patching == "before":
    patch()
from raven_spool.model import Request
senders = importlib.import_module(f"raven_spool.senders.{library}")
if patching == "after":
    patch()
green = importlib.import_module(library)

# A resolver that is slow: gevent calls the C library's in a thread, eventlet is one itself.
if library == "gevent":
    look_up = _socket.getaddrinfo
    def getaddrinfo(host, *args, **options):
        if host == no_name:
            never.acquire(timeout=1)
        return look_up(None if host == no_name else host, *args, **options)
    _socket.getaddrinfo = getaddrinfo
else:
    from eventlet.support.greendns import resolver
    deaf = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    deaf.bind(("127.0.0.1", 0))
    resolver._resolver.port = deaf.getsockname()[1]
    resolver._resolver.nameservers = ["127.0.0.1"]

def send(**options):
    outcome = sender.send(Request(headers=(), body=b"{}", **options))
    print("end", getattr(outcome, "status", "") or outcome.fault.name, flush=True)

green.spawn(tick)
sender = getattr(senders, library.capitalize() + "Sender")()
send(url="http://localhost:1/", timeout_seconds=20)  # a resolver imports much when first asked
for line in sys.stdin:
    send(**json.loads(line))
sender.close()
"""


class Child:
    """A process with a hub and one sender, patched or not."""

    def __init__(self, library: str, patching: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, library, patching, NO_NAME],
            cwd=ROOT,
            env=tool.bare_environment(KEPT_LOOPS="gevent eventlet"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self.wait_for_outcome()  # of the first one, to a port where nobody listens
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._process.communicate(timeout=10)
        finally:
            self._process.kill()
            self._process.wait()
        assert self._process.returncode == 0

    def begin(self, url: str, timeout_seconds: float = 20, **options: object) -> None:
        assert self._process.stdin is not None
        request = {"url": url, "timeout_seconds": timeout_seconds, **options}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def wait_for_ticks_since(self, start: float) -> None:
        left = TICKS
        while left:
            event, fact = self._read()
            assert event == "tick", f"the hub stood still; and then: {fact}"
            left -= float(fact) > start

    def wait_for_outcome(self) -> tuple[int, str]:
        """How often it ticked on the way, and what came."""
        ticks, started = 0, time.monotonic()
        while time.monotonic() - started < BOUND_SECONDS:
            event, fact = self._read()
            if event == "end":
                return ticks, fact
            ticks += 1
        raise AssertionError(f"no outcome within {BOUND_SECONDS} s")

    def _read(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the child died"
        return line.split()


@pytest.fixture(
    scope="module",
    params=[(library, when) for library in LIBRARIES for when in ("never", "before", "after")],
    ids="-patched-".join,
)
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    with Child(*request.param) as made:
        yield made


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_hub_runs_on_while_a_sender_waits_for_an_answer(child: Child, tls: bool) -> None:
    gate = Gate()
    with Ingest(tls=tls) as ingest:
        ingest.answer_with(answers.held(gate), answers.ok())
        child.begin(ingest.url, ca_certs=ingest.ca_file if tls else None)
        gate.wait_until_held()
        child.wait_for_ticks_since(time.monotonic())
        gate.release()
        assert child.wait_for_outcome()[1] == "200"
        child.begin(ingest.url, ca_certs=ingest.ca_file if tls else None)
        assert child.wait_for_outcome()[1] == "200"
        assert ingest.connections == 1


@contextmanager
def deaf_server() -> Iterator[str]:
    """Does not even take connections: its backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


@contextmanager
def trickling_server() -> Iterator[str]:
    """Answers a TLS handshake byte by byte, so that no single wait for it is long."""
    stopping = threading.Event()

    def trickle(listener: socket.socket) -> None:
        while not stopping.is_set():
            with suppress(OSError), listener.accept()[0] as sock:
                sock.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB
                while not stopping.wait(0.02):
                    sock.sendall(b"\x02")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopping.set()
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            thread.join(10)


@pytest.mark.parametrize(
    "serve",
    [lambda: nullcontext(f"http://{NO_NAME}:80"), deaf_server, trickling_server],
    ids=["lookup", "connect", "handshake"],
)
def test_hub_runs_on_while_a_sender_is_on_its_way(
    child: Child, serve: Callable[[], AbstractContextManager[str]]
) -> None:
    with serve() as url:
        for _ in range(ATTEMPTS):
            child.begin(url, SHORT_SECONDS, verify_ssl=False)  # the CAs are a file to read first
            ticks, outcome = child.wait_for_outcome()
            assert outcome == "TIMEOUT"
            if ticks >= TICKS:
                return
    pytest.fail("the hub stood still")


# In this process, where nothing is patched.


@pytest.mark.parametrize("library", LIBRARIES)
def test_sender_lets_a_timeout_of_the_application_pass(library: str) -> None:
    green, gate = importlib.import_module(library), Gate()
    with Ingest() as ingest:
        sender = open_sender(library)
        request = Request(url=ingest.url, headers=(), body=b"{}", timeout_seconds=20)
        ingest.answer_with(answers.held(gate), answers.ok())
        limit = green.Timeout(SHORT_SECONDS)
        with pytest.raises(green.Timeout) as caught, limit:
            sender.send(request)
        assert caught.value is limit
        gate.release()
        assert sender.send(request).status == 200
        assert ingest.connections == 2
        sender.close()
        wait_until(lambda: ingest.live_connections == 0, what="all to be closed")


def import_network(library: str) -> Network:
    modules = "eventlet.green" if library == "eventlet" else library
    return Network(
        socket=importlib.import_module(f"{modules}.socket"),
        ssl=importlib.import_module(f"{modules}.ssl"),
    )


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("verify", [True, False])
def test_green_context_is_as_strict_as_the_standard_one(library: str, verify: bool) -> None:
    network = import_network(library)
    green = tls_context(verify=verify, ca_certs=None, network=network)
    standard = tls_context(verify=verify, ca_certs=None)
    assert type(green) is network.ssl.SSLContext
    assert type(standard) is ssl.SSLContext
    names = ("check_hostname", "verify_mode", "verify_flags", "options", "minimum_version")
    assert [getattr(green, name) for name in names] == [getattr(standard, name) for name in names]
    # In the order of a hash table, which is not that of the file.
    assert sorted(map(str, green.get_ca_certs())) == sorted(map(str, standard.get_ca_certs()))


@contextmanager
def name_server() -> Iterator[int]:
    """Knows no name: answers each question with NXDOMAIN."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def answer() -> None:
            while len(query := sock.recvfrom(512)) and query[0]:
                question, asker = query
                sock.sendto(question[:2] + b"\x81\x83" + question[4:], asker)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            sock.sendto(b"", sock.getsockname())
            thread.join(10)


@pytest.mark.filterwarnings("ignore:please use dns.resolver:DeprecationWarning")
def test_eventlet_sender_names_a_host_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own resolver has errors of its own."""
    from eventlet.support import greendns

    with name_server() as port:
        resolver: Any = greendns.ResolverProxy(hosts_resolver=greendns.HostsResolver())
        resolver._resolver.port = port
        resolver._resolver.nameservers = ["127.0.0.1"]
        monkeypatch.setattr(greendns, "resolver", resolver)
        url = "http://missing.example/api/1/store/"
        sender = open_sender("eventlet")
        outcome = sender.send(Request(url=url, headers=(), body=b"{}", timeout_seconds=5))
    assert isinstance(outcome, Failure)
    assert (outcome.fault, outcome.maybe_delivered) == (Fault.CONNECT, False)
    assert outcome.message.endswith(": missing.example port 80")
