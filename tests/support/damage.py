"""What lies in a spool's directory, replaced by anything, behind our own code's back."""

import contextlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.fuzzing import NASTY, NUMBERS, texts

EVENTS = "ack_queue_events"
COLUMNS = {
    EVENTS: (
        "status", "lane", "due", "attempts", "deaths", "unanswered", "timestamp", "event_id",
        "endpoint", "size", "crc", "reason", "history", "headers", "data",
    ),
    "destinations": ("settings",),
    "lanes": (
        "destination", "category", "open_at", "hold_seconds", "hold", "failures", "ready", "dead",
        "accepted", "delivered", "bytes", "reason",
    ),
    "drops": ("lane", "reason", "events"),
    "graves": ("lane", "reason", "delivered"),
    "leadership": ("epoch", "leading", "unclean"),
    "meta": ("value",),
    "sqlite_sequence": ("name", "seq"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One cell set, or with no column one row gone."""

    table: str
    column: str
    row: int  # of the table's rows, counted from 0
    value: Any = None
    is_text: bool = False  # bytes as a text, UTF-8 or not


_numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.sampled_from([0, -1, 1, 2, 7, 9, 2**31, 2**62, 2**63 - 1, -(2**63), 1e308, -1e308, 1e999]),
)
_documents = st.sampled_from([
    "[[1e999, 1]]", "[[1, 2, 3]]", '[["x", "y"]]', '[["Host", "evil"]]', "[" * 3000,
    '{"max_bytes": 1e999}',
    '{"max_bytes": %s, "max_events": -1, "overflow": []}' % (10**30),
    '{"boot_id": 1, "up_seconds": 1e999, "at": -1e999, "spared_at": 1e999}',
    '{"boot_id": "", "up_seconds": NaN, "at": NaN, "spared_at": NaN}',
    '{"boot_id": "", "up_seconds": %s, "at": 0, "spared_at": 0}' % (10**400),
    '{"boot_id": "", "up_seconds": 0, "at": 0, "spared_at": 9e18}',
])  # fmt: skip
values = st.one_of(
    st.none(), _numbers, _documents, texts.map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=30),
)  # fmt: skip
_cells = st.sampled_from([(table, column) for table in COLUMNS for column in COLUMNS[table]])


@st.composite
def changes(draw: st.DrawFn) -> Change:
    if not draw(st.integers(0, 15)):
        return Change(draw(st.sampled_from([*COLUMNS])), "", draw(st.integers(0, 4)))
    table, column = draw(_cells)
    value, is_text = draw(values), draw(st.booleans())
    return Change(table, column, draw(st.integers(0, 4)), value, is_text)


def apply(path: Path, wanted: list[Change], *, mends_checksums: bool) -> None:
    """As a bad disk would: past triggers and NOT NULL."""
    database = str(path / (path / "current").read_text().strip() / "data.db")
    with _connect(database) as connection:
        schema = connection.execute("SELECT name, type, sql FROM sqlite_master").fetchall()
        programs = [(name, sql) for name, kind, sql in schema if kind == "trigger"]
        for name, _ in programs:
            connection.execute(f"DROP TRIGGER {name}")
        _set_schema(
            connection, {name: _loose(sql) for name, kind, sql in schema if kind == "table"}
        )
    with _connect(database) as connection:
        for change in wanted:
            with contextlib.suppress(sqlite3.IntegrityError):
                _change(connection, change)
        if mends_checksums:
            _mend_checksums(connection)
        _set_schema(connection, {name: sql for name, kind, sql in schema if kind == "table"})
        for _, sql in programs:
            connection.execute(sql)


@contextlib.contextmanager
def _connect(database: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


def _loose(sql: str | None) -> str | None:
    return sql and sql.replace(" NOT NULL", "")


def _set_schema(connection: sqlite3.Connection, tables: dict[str, str | None]) -> None:
    connection.execute("PRAGMA writable_schema = ON")
    for name, sql in tables.items():
        connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, name))
    connection.execute("PRAGMA writable_schema = RESET")


def _change(connection: sqlite3.Connection, change: Change) -> None:
    key = {"drops": "lane", "meta": "key"}.get(change.table, "rowid")
    (count,) = connection.execute(f"SELECT COUNT(*) FROM {change.table}").fetchone()
    if not count:
        return
    where = f"{key} = (SELECT {key} FROM {change.table} LIMIT 1 OFFSET {change.row % count})"
    if not change.column:
        connection.execute(f"DELETE FROM {change.table} WHERE {where}")
        return
    value = "CAST(? AS TEXT)" if change.is_text else "?"
    connection.execute(
        f"UPDATE {change.table} SET {change.column} = {value} WHERE {where}", (change.value,)
    )


def _mend_checksums(connection: sqlite3.Connection) -> None:
    """What is wrong is there on purpose."""
    rows = connection.execute(
        f"SELECT _id, CAST(headers AS BLOB), CAST(data AS BLOB) FROM {EVENTS}"
    ).fetchall()
    for key, headers, body in rows:
        crc = zlib.crc32(body or b"", zlib.crc32(headers or b""))
        connection.execute(f"UPDATE {EVENTS} SET crc = ? WHERE _id = ?", (crc, key))


# -- files ----------------------------------------------------------------------------------------

FILES = (
    "current", "drain.leader", "drain.lock", "wake", "write.turn", "write.lock", "queue.lock",
    "ballast", "ballast.new",
)  # fmt: skip
_RECORDS = (
    b'{"pid": 1e999, "progress_at": 0, "busy_until": 0}',
    b'{"pid": 99999999999999999999, "progress_at": 0, "busy_until": 0}',
    b'{"pid": -1, "progress_at": 0, "busy_until": 0}',
    b'{"pid": 0, "progress_at": NaN, "busy_until": NaN}',
    b'{"pid": 1, "progress_at": 1e999, "busy_until": -1e999}',
    b'{"pid": 1, "progress_at": -1e300, "busy_until": 1e300}',
    b'{"pid": 1, "progress_at": %s, "busy_until": 0}' % str(10**120).encode(),
)
contents = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(_RECORDS),
    st.sampled_from([*NASTY, *NUMBERS]).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(
        [b"g-../../canary", b"g-0\0", b"g-" + b"0" * 500, b"../canary", b"x" * 100_000]
    ),
)
shapes = st.one_of(contents, st.sampled_from(["directory", "link", "pipe", "gone"]))


def replace(path: Path, shape: bytes | str, canary: Path) -> None:
    """Put something else in the place of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match shape:
        case bytes():
            path.write_bytes(shape)
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(canary)
        case "pipe":
            os.mkfifo(path)
