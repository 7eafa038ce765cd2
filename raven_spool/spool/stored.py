"""Rows of the table as events."""

import functools
import json
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from raven_spool.model import Destination, Event, Headers, Lane, State
from raven_spool.spool.rows import YEAR_10000, StoredRow
from raven_spool.spool.sealing import Seal, Tampered, key_id

ENDPOINTS = ("store", "envelope")
# Why an event was buried that nobody has refused.
DAMAGED = "damaged on disk (its checksum or its seal does not match, or it is no event)"
UNDELIVERABLE = "its destination cannot be read: `raven-spool retry --dsn` names another"


class Key(NamedTuple):
    """What names one stored event, and where it stands: cheap to have of a million."""

    id: int
    state: State
    lane: int
    created_at: float
    event_id: str
    generation: str  # ids mean something only within the file they came from


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One stored event as the tools see it."""

    id: int
    state: State
    event: Event
    destination: Destination
    attempts: int
    next_attempt_at: float | None
    dead_at: float | None
    reason: str
    history: tuple[tuple[float, str], ...]
    is_whole: bool  # False: its bytes on disk have changed
    key_id: str | None  # of the key that it is sealed with, which this process has not


def checksum(headers: str, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(headers.encode()))


def is_whole(row: StoredRow) -> bool:
    """Whether it is what was written: SQLite reads a scrambled page without complaint."""
    return checksum(row.headers, row.data) == row.crc


def read_key(row: tuple[int, int, int, float, str], generation: str) -> Key:
    key, status, lane, created_at, event_id = row
    state = State.READY if status < 2 else State.DEAD
    return Key(key, state, lane, _instant(created_at), event_id, generation)


def read_event(row: StoredRow, category: str) -> Event:
    return Event(
        event_id=row.event_id,
        category=category,
        endpoint=row.endpoint,
        headers=_read_headers(row.headers),
        body=row.data,
        created_at=_instant(row.timestamp),
    )


def _instant(at: float) -> float:
    """What no clock says is no instant: infinity, the year 10,000."""
    return at if 0 <= at < YEAR_10000 else 0.0


@functools.lru_cache(maxsize=256)
def _read_headers(text: str) -> Headers:
    pairs = tuple((name, value) for name, value in json.loads(text))
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        raise ValueError("headers are pairs of texts")
    return pairs


def open_event(row: StoredRow, category: str, seal: Seal) -> Event | None:
    """The event of a row, opened if this process has its key; None: its bytes have changed, or it
    never was an event."""
    if not is_whole(row) or row.endpoint not in ENDPOINTS:
        return None
    try:
        return seal.open(read_event(row, category))
    except (Tampered, ValueError, TypeError, RecursionError):  # all but the first: its headers
        return None


def _read_history(text: str) -> tuple[tuple[float, str], ...]:
    try:
        return tuple((_instant(float(at)), str(what)) for at, what in json.loads(text))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return ()


def read_stored(
    row: StoredRow, category: str, held: Lane, destination: Destination, seal: Seal
) -> Stored:
    """`held` is what keeps the event longest: its lane, or the lane of its destination."""
    event = open_event(row, category, seal)
    ready, whole = row.status < 2, event is not None
    if not whole:
        row = row._replace(headers="[]")  # damaged on disk: shown, but not taken at its word
    return Stored(
        id=row.id,
        state=State.READY if ready else State.DEAD,
        event=event or read_event(row, category),
        destination=destination,
        attempts=row.attempts,
        next_attempt_at=_instant(max(row.due, held.open_at)) or _instant(row.timestamp)
        if ready
        else None,
        dead_at=None if ready else _instant(row.due),
        reason=row.reason or (held.reason if ready else ""),
        history=_read_history(row.history),
        is_whole=whole,
        key_id=None if event is None else key_id(event),
    )
