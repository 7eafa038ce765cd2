"""How programs end: exit, exec, daemons, destructors; and what sends in odd places meanwhile."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.faults.events import check_nothing_lost, count_repeats, read_ledger
from tests.support import evidence
from tests.support.ingest import Ingest
from tests.support.programs import REPEATS_OF_A_DEATH

PRELUDE = """
import atexit, gc, logging, os, signal, sys, threading
from pathlib import Path
from tests.faults.events import make_transport, send
path, url = Path(sys.argv[1]), sys.argv[2]
def report(event_id):
    os.write(1, event_id.encode() + b"\\n")
"""

PROGRAMS = {
    "first send inside a first send": """
        transport = make_transport(path)
        nth, seen = int(sys.argv[3]), 0
        def also_send(frame, event, arg):
            global seen
            seen += event == "call"
            if seen == nth:
                sys.setprofile(None)
                report(send(transport, url))
        sys.setprofile(also_send)
        report(send(transport, url))
        sys.setprofile(None)
    """,
    "logging handler": """
        transport = make_transport(path)
        class Sending(logging.Handler):
            def emit(self, record):  # raven's skips its own, too
                if record.name.startswith(("app", "persistqueue")):
                    report(send(transport, url))
        logging.basicConfig(level=logging.DEBUG, handlers=[Sending()])
        logging.getLogger("app").error("one")
        report(send(transport, url))
        transport.close(5)
    """,
    "destructor": """
        transport = make_transport(path, backend="none")
        class Sending:
            def __del__(self):
                report(send(transport, url))
        gc.set_threshold(1)
        for _ in range(50):
            one = Sending(); one.itself = one
            del one
            report(send(transport, url))
        gc.collect()
    """,
    "atexit": """
        transport = make_transport(path)
        atexit.register(lambda: report(send(transport, url)))
        report(send(transport, url))
        atexit.register(lambda: report(send(transport, url)))
    """,
    "sys.exit": """
        transport = make_transport(path)
        report(send(transport, url))
        sys.exit(0)
    """,
    "os._exit": """
        transport = make_transport(path)
        report(send(transport, url))
        os._exit(0)
    """,
    "daemon threads": """
        transport = make_transport(path)
        enough = threading.Semaphore(0)
        def go():
            while True:
                report(send(transport, url))
                enough.release()
        for _ in range(4):
            threading.Thread(target=go, daemon=True).start()
        for _ in range(20):
            enough.acquire()
    """,
    "uncaught exception": """
        transport = make_transport(path)
        report(send(transport, url))
        sys.excepthook = lambda *args: report(send(transport, url))
        raise SystemError("the application fails")
    """,
    "os.abort": """
        transport = make_transport(path)
        report(send(transport, url))
        os.abort()
    """,
    "sys.exit in a thread": """
        transport = make_transport(path)
        def go():
            report(send(transport, url))
            sys.exit(3)
        threads = [threading.Thread(target=go) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """,
    "destructors at the end": """
        transport = make_transport(path)
        class Sending:
            def __init__(self, backend):
                self.transport = make_transport(path, backend=backend)
            def __del__(self):
                report(send(self.transport, url))
        kept = [Sending("thread"), Sending("none"), Sending("inline")]
        sys.kept = Sending("none")  # goes with the modules, when nothing else is left
        report(send(transport, url))
    """,
    "daemon threads that outlive atexit": """
        transport = make_transport(path, backend="none", send_timeout=5)
        begun = threading.Event()
        def go():
            while True:
                report(send(transport, url))
                begun.set()
        atexit.register(lambda: threading.Event().wait(0.2))  # runs after our own hook
        threading.Thread(target=go, daemon=True).start()
        begun.wait(10)
    """,
    "Ctrl-C while the exit waits": """
        import socket
        deaf = socket.create_server(("127.0.0.1", 0))  # takes connections, answers none
        here = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        transport = make_transport(path, shutdown_timeout=20)
        report(send(transport, here))
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        atexit.register(lambda: signal.setitimer(signal.ITIMER_REAL, 0.3))
    """,
    "double fork": """
        transport = make_transport(path)
        report(send(transport, url))
        if os.fork():
            os._exit(0)
        os.setsid()
        report(send(transport, url))
        if os.fork():
            os._exit(0)
        os.chdir("/")
        for _ in range(3):
            report(send(transport, url))
        transport.close(5)
    """,
    "fork in a hub's callback": """
        from importlib import import_module
        kind = sys.argv[3]
        hub = import_module(kind)
        transport = make_transport(path, backend=kind, send_timeout=5)
        report(send(transport, url))
        done = []
        def fork():
            pid = os.fork()
            try:
                report(send(transport, url))
            finally:
                if not pid:
                    os._exit(0)
            os.waitpid(pid, 0)
            done.append(pid)
        for number in range(10):
            if kind == "gevent":
                hub.get_hub().loop.run_callback(fork)
            else:
                hub.hubs.get_hub().schedule_call_global(0, fork)
            while len(done) <= number:
                hub.sleep(0.01)
        assert transport.flush(10)
    """,
    "exec": """
        if len(sys.argv) > 3:  # after it
            links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
                     if os.path.exists(f"/proc/self/fd/{name}")]
            kept = [link for link in links if str(path) in link or "socket" in link]
            assert not kept, kept
            transport = make_transport(path, backend="none", send_timeout=5)
            report(send(transport, url))
            assert transport.flusher.volatile == 0
            sys.exit(0)
        transport = make_transport(path)
        enough = threading.Semaphore(0)
        def go():
            while True:
                report(send(transport, url))
                enough.release()
        for _ in range(4):
            threading.Thread(target=go, daemon=True).start()
        for _ in range(50):
            enough.acquire()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "after"])
    """,
}


def run_program(name: str, path: Path, url: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(PROGRAMS[name]), path, url, *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
    )


CALLED_APART = {"first send inside a first send", "fork in a hub's callback"}
CUT = {"exec", "double fork"}  # a request was under way, or its ack


@pytest.mark.evidence
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in CALLED_APART])
def test_program_loses_nothing_that_returned(tmp_path: Path, name: str) -> None:
    check_program(tmp_path / "spool", name)


@pytest.mark.evidence
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
def test_fork_in_a_callback_of_a_hub_loses_nothing(tmp_path: Path, hub: str) -> None:
    assert check_program(tmp_path / "spool", "fork in a hub's callback", hub) == 21


def check_program(path: Path, name: str, *args: str) -> int:
    """Returns how many of its sends returned."""
    with Ingest() as ingest:
        ran = run_program(name, path, ingest.url, *args)
        returned = ran.stdout.split()
        assert returned, ran.stderr
        check_nothing_lost(returned, ingest, path)
        repeats = count_repeats(ingest)
        assert repeats <= (REPEATS_OF_A_DEATH if name in CUT else 0)
        read_ledger(path)
    assert "Traceback" not in ran.stderr, ran.stderr
    assert "Exception ignored" not in ran.stderr, ran.stderr
    evidence.note(
        f"a program that ends oddly: {' '.join([name, *args])}",
        promise=1,
        tried="1 run",
        events=len(returned),
        lost=0,
        twice=repeats,
    )
    return len(returned)


@pytest.mark.parametrize("nth", [5, 40, 100, 200, 300, 400, 500, 650])
def test_first_send_inside_the_first_send_makes_one_flusher(tmp_path: Path, nth: int) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest:
        ran = run_program("first send inside a first send", path, ingest.url, str(nth))
        assert ran.returncode == 0, ran.stderr
        returned = ran.stdout.split()
        assert len(returned) == 2
        check_nothing_lost(returned, ingest, path)
        assert sorted(ingest.event_ids()) == sorted(returned)
