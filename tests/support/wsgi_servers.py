"""Pre-fork servers with an application whose every order raises, and what became of its events.

    with Shop(directory, GUNICORN) as shop:
        shop.order(20)          # over a few connections; raises nothing, remembers the event ids
        shop.check_delivered()  # each of them, and none but them, exactly once

The server inherits a listening socket on a free port, has a session of its own, and is killed
whole at the end.
"""

import http.client
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from raven_spool.spool import Spool
from raven_spool.spool.leader import read_record
from tests.support import tool
from tests.support.answers import ok
from tests.support.ingest import Ingest
from tests.support.spools import discard
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "tests.e2e.apps.failing_shop"
CONCURRENCY = 4  # SpoolTransport's default: as many may be in flight when a worker is killed
_REQUEST_SECONDS = 10
_START_SECONDS = 30

Command = Callable[[int], list[str]]  # from the descriptor of the listening socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    event_id: str | None
    process: int
    runtimes: str | None = None  # what delivers there, if the application says so


@dataclass(slots=True)
class Accepted:
    """What the application was told is safe, and how often more than once it may have come."""

    event_ids: list[str] = field(default_factory=list)
    repeats: int = 0


class Shop:
    """One server, one spool, one ingest."""

    def __init__(
        self,
        directory: Path,
        command: Command,
        *,
        import_captures: int = 0,
        **env: str,
    ) -> None:
        self.spool = directory / "spool"
        self.ingest = Ingest()
        self.accepted = Accepted()
        self.runs_threads = True
        self._command = command
        self._import_captures = import_captures
        self._env = env
        self._diary = directory / "diary"
        self._log = directory / "server.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.ingest.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self.ingest.close()

    # The server

    def open(self) -> None:
        """Return when the server answers and the ingest is there; start what is not."""
        self.restart_ingest()
        if self._server is None:
            with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as listener:
                self._port = listener.getsockname()[1]
                self._server = self._spawn(listener.fileno())
        self._wait_until_all_answer()

    def _wait_until_all_answer(self) -> None:
        try:
            wait_until(self._answers, timeout_seconds=_START_SECONDS)
        except TimeoutError:
            raise AssertionError(f"the server does not answer\n{self.log()}") from None

    def restart_ingest(self) -> None:
        self.ingest.stop()
        self.ingest.start().answer_with(ok())

    def _spawn(self, listener: int) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command(listener),
                cwd=ROOT,
                env=tool.environment(
                    PYTHONPATH=str(ROOT),
                    PYTHONDONTWRITEBYTECODE="1",
                    SENTRY_DSN=self.ingest.dsn(),
                    RAVEN_SPOOL_PATH=str(self.spool),
                    SHOP_DIARY=str(self._diary),
                    SHOP_IMPORT_CAPTURES=str(self._import_captures),
                    SHOP_LISTENER=str(listener),
                    **self._env,
                ),
                pass_fds=[listener],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        """Whether every worker does: one that is still loading takes a signal in another way."""
        assert self.server.poll() is None, self.log()
        with ThreadPoolExecutor(4) as visitors:
            answered = {one.process for one in visitors.map(self._visit, range(4)) if one}
        return bool(answered) and answered >= self.workers()

    def _visit(self, number: int) -> Answered | None:
        with suppress(OSError, http.client.HTTPException):
            return self._request("GET", "/")
        return None

    @property
    def server(self) -> subprocess.Popen[bytes]:
        assert self._server is not None
        return self._server

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-6000:] if self._log.exists() else ""

    def workers(self) -> set[int]:
        master = self.server.pid
        return set(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))

    def signal_workers(self, pids: set[int], number: signal.Signals) -> None:
        """And wait until they are gone and others have come."""
        count = len(self.workers())
        for pid in pids & self.workers():
            os.kill(pid, number)
        self.wait_until_gone(pids, count)

    def wait_until_gone(self, old: set[int], count: int) -> None:
        try:
            wait_until(
                lambda: not old & self.workers() and len(self.workers()) >= count,
                timeout_seconds=20,
            )
        except TimeoutError:
            raise AssertionError(f"{self.workers()} after {old}\n{self.log()}") from None
        self._wait_until_all_answer()

    def end(self, number: signal.Signals = signal.SIGTERM, *, timeout_seconds: float) -> None:
        """An orderly end of the whole server.

        Raises:
            TimeoutExpired: it did not end in that time.
        """
        self.server.send_signal(number)
        self.server.wait(timeout_seconds)
        self.kill()

    def kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    # What customers do

    def order(self, count: int, *, connections: int = 4) -> list[Answered]:
        """Place orders over a few connections at once. All are answered, all answers differ."""
        answered = self.order_while(lambda number: None, count, connections=connections)
        assert len(answered) == count, self.log()
        return answered

    def order_while(
        self, happens: Callable[[int], None], count: int, *, connections: int = 4
    ) -> list[Answered]:
        """As `order`, but some may go unanswered; `happens(n)` is called before the nth."""

        def place(number: int) -> Answered | None:
            happens(number)
            with suppress(OSError, http.client.HTTPException):
                return self._request("POST", f"/order/{number}")
            return None

        with ThreadPoolExecutor(connections) as customers:
            answered = [one for one in customers.map(place, range(count)) if one is not None]
        self.accepted.event_ids += [str(one.event_id) for one in answered]
        assert len(set(self.accepted.event_ids)) == len(self.accepted.event_ids)
        return answered

    def order_amid_a_reload(self, count: int) -> list[Answered]:
        """The server is told to reload (SIGHUP) in the middle of them."""

        def reload_once(number: int) -> None:
            if number == count // 4:
                os.kill(self.server.pid, signal.SIGHUP)

        return self.order_while(reload_once, count)

    def _request(self, method: str, path: str) -> Answered:
        headers, _ = self.ask(method, path)
        self.runs_threads = headers["X-Threads"] == "yes"
        return Answered(
            event_id=headers["X-Event-ID"],
            process=int(headers["X-Process"]),
            runtimes=headers["X-Runtimes"],
        )

    def ask(self, method: str, path: str) -> tuple[http.client.HTTPMessage, bytes]:
        """The headers and the body of an answer."""
        with closing(
            http.client.HTTPConnection("127.0.0.1", self._port, timeout=_REQUEST_SECONDS)
        ) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.headers, answer.read()

    # What became of the events

    def imported(self) -> list[tuple[int, str]]:
        """Process and id of each event captured while the application was imported."""
        lines = self._diary.read_text().splitlines() if self._diary.exists() else []
        return [(int(pid), event_id) for pid, event_id in map(str.split, lines)]

    def known(self) -> set[str]:
        return {*self.accepted.event_ids, *(event_id for _, event_id in self.imported())}

    def leader(self) -> int | None:
        record = read_record(str(self.spool / "drain.leader"))
        return record.pid if record is not None else None

    def flush(self) -> None:
        """As cron does it."""
        ran = tool.run("flush", "--timeout", "20", "--spool", self.spool)
        assert ran.returncode == 0, ran.stdout + ran.stderr + self.log()

    def check_delivered(self, *, strangers: int = 0) -> None:
        """Every known event arrived, as often as it may.

        Args:
            strangers: so many may have come beside them: their requests went unanswered.
        """
        if not self.runs_threads:
            self.flush()

        def is_delivered() -> bool:
            arrived, known = set(self.ingest.event_ids()), self.known()
            return known <= arrived and len(arrived - known) <= strangers

        try:
            wait_until(is_delivered, timeout_seconds=20)
        except TimeoutError:
            lost = self.known() - set(self.ingest.event_ids())
            strange = set(self.ingest.event_ids()) - self.known()
            raise AssertionError(f"lost {lost}, strange {strange}\n{self.log()}") from None
        wait_until_acked(self.spool)
        counts = Counter(self.ingest.event_ids())
        assert sum(counts.values()) - len(counts) <= self.accepted.repeats, counts.most_common(5)


def wait_until_acked(path: Path) -> None:
    """Nothing is ready, so no answer is on its way: an ingest that stops now cuts none off."""
    spool = Spool(str(path))
    try:
        wait_until(lambda: spool.stats()["ready"] == 0, what="an empty spool")
    finally:
        discard(spool)
