"""One contestant in one trouble: its programs, its store, its server, and the count at the end."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _cells import HANGS_AFTER_SECONDS, ROOT, Cell, bare_environment, mend, run_to_its_end

from tests.support import tool
from tests.support.ingest import Ingest, Seen
from tests.support.reading import find_event_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """What is compared; `files` is where its store keeps events, "" if it has none."""

    name: str
    who: str  # as _contestants.py knows it
    package: str
    files: str = ""


class Trial:
    def __init__(self, contestant: Contestant, server: Ingest, place: Path) -> None:
        self.contestant = contestant
        self.server = server
        self.store = place / "store"
        self._diary = place / "diary"
        self._diary.touch()
        self._hung = False

    # -- programs ---------------------------------------------------------------------------------

    def run(self, count: int, ending: str = "exit", **more: Any) -> None:
        self._hung |= not run_to_its_end(self._command(count, ending, more), bare_environment())

    @contextmanager
    def running(self, count: int, ending: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A program that is killed at the end of the block, if it still lives."""
        process = subprocess.Popen(
            self._command(count, ending, more),
            env=bare_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def finish(self) -> None:
        """The server is well, and another program comes, captures one and flushes."""
        mend(self.server)
        self.run(1, "flush")

    def _command(self, count: int, ending: str, more: dict[str, Any]) -> list[str]:
        told = {
            "who": self.contestant.who,
            "dsn": self.server.dsn(tool.KEY, tool.SECRET),
            "store": str(self.store),
            "diary": str(self._diary),
            "count": count,
            "ending": ending,
            **more,
        }
        return [sys.executable, str(ROOT / "bench" / "_contestants.py"), json.dumps(told)]

    # -- what came of it --------------------------------------------------------------------------

    def diary(self) -> list[dict[str, Any]]:
        """A row for each capture that returned; a kill may have cut the last one."""
        whole = self._diary.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in whole]

    def arrivals(self) -> Counter[str]:
        return Counter(one for seen in self.server.requests for one in read_ids(seen))

    def count(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [row["id"] for row in rows if "id" in row]
        times = self.arrivals()
        cell = Cell(
            captured=len(rows),
            arrived=sum(one in times for one in ids),
            twice=sum(times[one] > 1 for one in ids),
            kept=len(self.list_kept() & {*ids} - {*times}),
            raised=len(rows) - len(ids),
            hung=self._hung,
        )
        return {"counts": asdict(cell)}

    def list_kept(self) -> set[str]:
        return {one for path in self.store_files() for one in self._list_in(path)}

    def store_files(self) -> list[Path]:
        files = self.contestant.files
        return [path for path in self.store.glob(files) if path.is_file()] if files else []

    def _list_in(self, path: Path) -> Iterator[str]:
        if path.suffix != ".db":
            yield from filter(None, [find_event_id(path.read_bytes())])
            return
        with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
            if self.contestant.who == "logstash":  # the marked ones are never fetched again
                rows = connection.execute("SELECT event_text FROM event WHERE NOT pending_delete")
                yield from (json.loads(text)["message"] for (text,) in rows)
            else:
                rows = connection.execute("SELECT event_id FROM ack_queue_events")
                yield from (event_id for (event_id,) in rows)


def read_ids(seen: Seen) -> list[str]:
    """Of the events that a request brought, if the server took it for its own."""
    if not seen.accepted or seen.answer.isdigit():  # a portal's 200 is nobody's answer to an event
        return []
    if seen.event_id:
        return [seen.event_id]
    return re.findall(r'"message": ?"([0-9a-f]{32})"', seen.body.decode(errors="replace"))


def wait_a_while(is_so: Any, process: subprocess.Popen[bytes]) -> bool:
    """False where it never comes: the program ended, or does nothing."""
    deadline = time.monotonic() + HANGS_AFTER_SECONDS / 4
    while time.monotonic() < deadline and process.poll() is None:
        if is_so():
            return True
        time.sleep(0.002)
    return False
