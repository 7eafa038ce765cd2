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


_TYPES = {int: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB"}


YEAR_10000 = 253402300800.0


def cast(name: str, kind: type, most: float | None = None) -> str:
    """SQLite keeps any type in any column: what a damaged page holds comes as the type we expect,
    if need be as a 0, and where that is asked for between 0 and `most`."""
    value = f"CAST(IFNULL({name}, '') AS {_TYPES[kind]})"
    return value if most is None else f"MIN(MAX({value}, 0), {most})"


def _cast(fields: tuple[str, ...]) -> str:
    types = StoredRow.__annotations__
    return ", ".join(cast(name, types[name]) for name in fields)


STORED_COLUMNS = f"_id, {_cast(StoredRow._fields[1:])}"
KEY_COLUMNS = f"_id, {_cast(('status', 'lane', 'timestamp', 'event_id'))}"
