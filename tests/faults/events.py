"""Events whose content follows from their id, and the oracle that counts what became of them."""

import contextlib
import hashlib
import json
import sqlite3
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from raven_spool.transport.spool import SpoolTransport
from tests.support.ingest import Ingest, Seen

AUTH = {
    "X-Sentry-Auth": "Sentry sentry_version=6, sentry_client=raven-python/6.10.0, "
    "sentry_key=public, sentry_secret=secret",
    "Content-Type": "application/json",
}


def new_id() -> str:
    return uuid.uuid4().hex


def body_of(event_id: str) -> bytes:
    """The one body that belongs to this id, of a size that follows from it too."""
    filler = hashlib.sha256(event_id.encode()).hexdigest() * (1 + int(event_id[:2], 16) // 8)
    return json.dumps({"event_id": event_id, "message": filler}).encode()


def make_transport(path: Path, *, backend: str = "thread", **options: Any) -> SpoolTransport:
    """With back-off so short that a test needs no patience."""
    options.setdefault("wait", retry_soon)
    return SpoolTransport(spool_path=str(path), backend=backend, **options)


def retry_soon(state: Any) -> float:
    return 0.01


def send(transport: SpoolTransport, url: str, event_id: str | None = None) -> str:
    """Send one event to the server at `url`; returns its id."""
    event_id = event_id or new_id()
    return transport.send(f"{url}/api/1/store/", body_of(event_id), AUTH)


def read_ledger(path: Path) -> dict[str, int]:
    """The spool's counts, read past our own code, and held against the table itself; the file is
    whole."""
    generation = (path / "current").read_text().strip()
    database = path / generation / "data.db"
    with contextlib.closing(sqlite3.connect(database, timeout=5)) as connection:
        found = _read_counts(connection)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert found["ready"] == found.pop("rows_ready"), found
    assert found["dead"] == found.pop("rows_dead"), found
    assert found["bytes"] == found.pop("rows_bytes"), found
    states = ("ready", "dead", "delivered", "dropped")
    assert found["accepted"] == sum(found[name] for name in states), found
    return found


def _read_counts(connection: sqlite3.Connection) -> dict[str, int]:
    names = ("accepted", "ready", "dead", "delivered", "bytes", "dropped")
    names += ("rows_ready", "rows_dead", "rows_bytes")
    table = event_table(connection)
    row = connection.execute(
        "SELECT TOTAL(accepted), TOTAL(ready), TOTAL(dead), TOTAL(delivered), TOTAL(bytes), "
        "(SELECT TOTAL(events) FROM drops), "
        f"(SELECT COUNT(*) FROM {table} WHERE status < 2), "
        f"(SELECT COUNT(*) FROM {table} WHERE status >= 2), "
        f"(SELECT TOTAL(size) FROM {table}) FROM lanes"
    ).fetchone()
    return dict(zip(names, map(int, row), strict=True))


def event_root(connection: sqlite3.Connection) -> int:
    """The first page of that table's tree."""
    sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
    (root,) = connection.execute(sql, (event_table(connection).strip('"'),)).fetchone()
    return int(root)


def event_table(connection: sqlite3.Connection) -> str:
    (name,) = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%event_id TEXT%'"
    ).fetchone()
    return f'"{name}"'


def stored_ids(path: Path) -> list[str]:
    """Ids of all events in the live file, ready and dead."""
    return _ids_in(path / (path / "current").read_text().strip())


def _ids_in(generation: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(generation / "data.db", timeout=5)) as connection:
        table = event_table(connection)
        return [row[0] for row in connection.execute(f"SELECT event_id FROM {table}")]


def readable_ids(path: Path) -> list[str]:
    """Ids in all files of the spool that can be read, those that were left behind too."""
    found: list[str] = []
    for generation in path.glob("g-*"):
        with contextlib.suppress(sqlite3.Error, TypeError):
            found += _ids_in(generation)
    return found


def check_bodies(requests: list[Seen]) -> None:
    """What was accepted is byte for byte what was sent."""
    for seen in requests:
        if seen.accepted:
            assert seen.event_id is not None
            assert seen.body == body_of(seen.event_id), seen.event_id


def count_repeats(ingest: Ingest) -> int:
    """Deliveries beyond the first of each event."""
    return sum(count - 1 for count in Counter(ingest.event_ids()).values())


def check_nothing_lost(returned: list[str], ingest: Ingest, path: Path) -> None:
    """Each event whose send returned was delivered, or is stored."""
    known = {*ingest.event_ids(), *readable_ids(path)}
    lost = [event_id for event_id in returned if event_id not in known]
    assert not lost, f"{len(lost)} of {len(returned)} lost: {lost[:5]}"
    check_bodies(ingest.requests)
