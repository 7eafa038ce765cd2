"""A real Sentry-compatible server for end-to-end tests: Bugsink, on loopback, in one directory.

    with BugsinkServer(directory) as server:
        ...             # send events to server.dsn
        server.stop()   # an outage: connections are refused
        server.start()  # the same port, DSN and data again

Bugsink lives in a virtual environment of its own (`make test` makes it) and is found through
RAVEN_SPOOL_BUGSINK_VENV. It digests eagerly: an event that was answered 200 is in the database.
"""

import collections
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import urllib.request
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).resolve().parent / "bugsink_site"
UNLIMITED = 10**9
START_SECONDS = 90  # a restart takes under a second; the first start migrates two databases
STOP_SECONDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One POST that the server answered."""

    status: int
    path: str
    encoding: str
    client: str
    event_id: str | None  # as in the answer, 32 hex digits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """What must stay the same from one start to the next."""

    port: int
    secret: str = field(repr=False)
    dsn: str = ""


class BugsinkServer:
    """Starts, stops and questions one Bugsink; everything it keeps is in `directory`.

    Args:
        directory: made on the first start; a later server on it continues the earlier one.
        quota: events taken before it answers 429.
    """

    def __init__(self, directory: Path, *, quota: int = UNLIMITED) -> None:
        self.directory = directory.resolve()
        self._quota = quota
        self._gunicorn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # Starting and stopping

    @property
    def dsn(self) -> str:
        """Where events go. Known from the first start on, whether the server is up or not."""
        return self._read_site().dsn

    @property
    def is_up(self) -> bool:
        return self._gunicorn is not None and self._gunicorn.poll() is None

    def start(self) -> None:
        """Return when the server answers; does nothing where it is up already.

        Raises:
            RuntimeError: Bugsink is not installed, or did not come up; the text holds its log.
        """
        if self.is_up:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with closing(socket.socket()) as listener:
            _bind(listener, self._kept_port())
            site = self._site_on(listener.getsockname()[1])
            self._gunicorn = self._spawn(site, listener)
        try:
            wait_until(
                lambda: self._has_answered(site), timeout_seconds=START_SECONDS, what="Bugsink"
            )
        except BaseException:
            self.stop(kill=True)
            raise

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server, gently or with SIGKILL to all of it; return when it refuses."""
        gunicorn, self._gunicorn = self._gunicorn, None
        if gunicorn is None:
            return
        if not kill:
            gunicorn.terminate()
            with suppress(subprocess.TimeoutExpired):
                gunicorn.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(gunicorn.pid, signal.SIGKILL)
        gunicorn.wait()
        if gunicorn.stdin:
            gunicorn.stdin.close()
        wait_until(self._refuses, timeout_seconds=STOP_SECONDS, what="Bugsink's end")

    # What arrived

    def event_ids(self) -> list[str]:
        """The ids in the server's own database, 32 hex digits each, in order of arrival."""
        with closing(sqlite3.connect(self.directory / "db.sqlite3", timeout=30)) as database:
            rows = database.execute(
                "SELECT event_id FROM events_event ORDER BY project_digest_order"
            )
            return [event_id for (event_id,) in rows]

    def count(self) -> int:
        return len(self.event_ids())

    def wait_for(self, number: int, *, timeout_seconds: float = 30) -> None:
        """Return when at least `number` events are stored; TimeoutError if they don't come."""
        wait_until(
            lambda: self.count() >= number,
            timeout_seconds=timeout_seconds,
            what=f"{number} events in Bugsink (it has {self.count()})",
        )

    def posts(self) -> list[Post]:
        """Every POST that was answered, in order of the answers."""
        try:
            lines = (self.directory / "posts.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [Post(**json.loads(line)) for line in lines]

    def repeated_ids(self) -> list[str]:
        """The ids that came with more than one accepted POST (the database stores them once)."""
        accepted = (post.event_id for post in self.posts() if post.status == 200)
        times = collections.Counter(event_id for event_id in accepted if event_id)
        return [event_id for event_id, number in times.items() if number > 1]

    # How it is run

    @property
    def _site_path(self) -> Path:
        return self.directory / "site.json"

    def _read_site(self) -> _Site:
        return _Site(**json.loads(self._site_path.read_text()))

    def _kept_port(self) -> int:
        return self._read_site().port if self._site_path.exists() else 0

    def _site_on(self, port: int) -> _Site:
        if self._site_path.exists():
            return self._read_site()
        bare = _Site(port=port, secret=secrets.token_urlsafe(40))
        site = _Site(port=port, secret=bare.secret, dsn=self._prepare(bare))
        self._site_path.write_text(json.dumps(asdict(site)))
        return site

    def _prepare(self, site: _Site) -> str:
        prepared = subprocess.run(
            [bugsink_python(), SITE / "bugsink_prepare.py"],
            cwd=self.directory,
            env=self._environment(site),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        dsns = [line[4:] for line in prepared.stdout.splitlines() if line.startswith("DSN=")]
        if prepared.returncode or not dsns:
            raise RuntimeError("Bugsink could not be prepared:\n" + prepared.stdout[-4000:])
        return dsns[0]

    def _spawn(self, site: _Site, listener: socket.socket) -> subprocess.Popen[bytes]:
        command = [str(bugsink_python()), "-m", "gunicorn", "bugsink_wsgi:application"]
        command += ["--bind", f"fd://{listener.fileno()}", "--workers", "1", "--threads", "8"]
        command += ["--keep-alive", "15", "--graceful-timeout", "10", "--no-control-socket"]
        with (self.directory / "server.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                env=self._environment(site),
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # its end tells the server that we are gone
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self, site: _Site) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(SITE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "bugsink_settings",
            "BUGSINK_SITE_DIR": str(self.directory),
            "BUGSINK_SITE_URL": f"http://127.0.0.1:{site.port}",
            "BUGSINK_SITE_SECRET": site.secret,
            "BUGSINK_SITE_QUOTA": str(self._quota),
        }

    def _has_answered(self, site: _Site) -> bool:
        if not self.is_up:
            log = (self.directory / "server.log").read_text(errors="replace")
            raise RuntimeError("Bugsink ended by itself:\n" + log[-4000:])
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"http://127.0.0.1:{site.port}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _refuses(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._kept_port()), timeout=5).close()
        except ConnectionRefusedError:
            return True
        except OSError:  # a reset: the last process is just ending
            return False
        return False


def bugsink_python() -> Path:
    """The interpreter of Bugsink's own virtual environment.

    Raises:
        RuntimeError: it is not there; `make test` makes it.
    """
    default = ROOT / ".cache" / "bugsink-venv"
    python = Path(os.environ.get("RAVEN_SPOOL_BUGSINK_VENV", default)).absolute() / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"no Bugsink at {python}: `make test` installs it")
    return python


def _bind(listener: socket.socket, port: int) -> None:
    """Bind on loopback, for gunicorn to inherit; whoever had the port before gets time to leave."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def is_bound() -> bool:
        with suppress(OSError):
            listener.bind(("127.0.0.1", port))
        return bool(listener.getsockname()[1])

    wait_until(is_bound, timeout_seconds=10, what=f"port {port}")
