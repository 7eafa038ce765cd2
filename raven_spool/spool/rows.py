"""One event as it goes into the table, and as it comes out."""

from typing import NamedTuple


class Row(NamedTuple):
    """One event as it goes into the table."""

    lane: int
    timestamp: float
    event_id: str
    endpoint: str
    size: int
    crc: int
    headers: str
    data: bytes


class StoredRow(NamedTuple):
    """One event as it comes out."""

    id: int
    status: int
    lane: int
    due: float
    attempts: int
    deaths: int
    unanswered: int
    timestamp: float
    event_id: str
    endpoint: str
    size: int
    crc: int
    reason: str
    history: str
    headers: str
    data: bytes
