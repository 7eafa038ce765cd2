"""persist-queue's ack queue, made fit for many processes: the statements, and nothing about locks.

What of persist-queue 1.1.0 is used, and what is not, and why: facts in docs/decisions.md. Used:
table naming, SQL templates, the serializer protocol, the connection hook, the transaction
wrapper, the ack states. Not used, because a second process breaks them: the counters in memory,
`get` of one row with a separate UPDATE, resuming what others hold, acked rows that stay.
`tests/contract/test_persistqueue.py` fails if a release moves what we stand on.

Every statement here is a transaction of its own (autocommit), so that no crash, signal or fork
finds one half done. Callers hold the spool's lock, and the gate for what writes.
"""

import contextlib
import functools
import json
import logging
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from persistqueue.sqlackqueue import SQLiteAckQueue
from persistqueue.sqlbase import with_conditional_transaction

from raven_spool.spool import schema
from raven_spool.spool.complaints import SQLITE_ERRORS
from raven_spool.spool.rows import KEY_COLUMNS, STORED_COLUMNS, Row, StoredRow, cast

_KEPT_ATTEMPTS = 20
_KEPT_GRAVES = 10_000
_FARTHEST_SECONDS = 3600.0  # the longest back-off there is (policy.py)
_CURSORS = 32
_READ_TIMEOUT_SECONDS = 0.1  # writes are gated; this is for foreign tools with the file open

# One text on a damaged page must not keep the rest of its rows from being read. Without a Python
# frame, as everything under the store's lock.
READABLE_TEXT = functools.partial(str, encoding="utf-8", errors="replace")


# persist-queue logs under our lock; an application's handler may send that, and would wait for
# itself. What of this an application asks for by name it gets.
for _name in ("persistqueue.sqlbase", "persistqueue.sqlackqueue"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.WARNING)


class RawSerializer:
    """persist-queue's serializer protocol for what is bytes already. Never pickle."""

    @staticmethod
    def dumps(value: bytes, sort_keys: bool = False) -> bytes:
        return value

    @staticmethod
    def loads(value: bytes) -> bytes:
        return value


class Connection(sqlite3.Connection):
    """Whose cursors end with it. Since Python 3.11 one that is in use keeps the file open beyond
    `close`: a signal handler that forked between an `execute` and its `fetch` took an open file
    into the child, whose SQLite then relied on locks that were the parent's (an event lost in one
    of some thousand such forks)."""

    def __init__(self, living: "Connections", *args: Any, **settings: Any) -> None:
        # As many as may be in use at once, and more.
        self._cursors: deque[weakref.ref[sqlite3.Cursor]] = deque(maxlen=_CURSORS)
        # First: a signal handler may fork while it is opened.
        living.append(weakref.ref(self, living.remove))
        super().__init__(*args, **settings)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        cursor = self.cursor()
        self._cursors.append(weakref.ref(cursor))  # before it is in use
        return cursor.execute(*args)

    def close(self) -> None:
        for reference in self._cursors:
            cursor = reference()
            if cursor is not None:
                with contextlib.suppress(sqlite3.ProgrammingError):  # closed before, with us
                    cursor.close()
        super().close()


Connections = list[weakref.ref[Connection]]


class EventQueue(SQLiteAckQueue):
    _getter = _putter = None  # its `__del__` asks for them also where opening failed
    _SQL_CREATE = schema.EVENTS
    _SQL_INSERT = (
        "INSERT INTO {table_name} "
        "(status, lane, timestamp, event_id, endpoint, size, crc, headers, data) VALUES "
    )
    _ROW_VALUES: ClassVar[str] = "(0, ?, ?, ?, ?, ?, ?, ?, ?)"
    _SQL_MARK_ACK_UPDATE = (
        "UPDATE {table_name} SET status = ?, reason = ?, due = ? "
        "WHERE status <> ? AND {key_column} IN (SELECT value FROM json_each(?))"
    )
    # For an ack, "the key is one of these": persist-queue's template, with its operator.
    _SQL_DELETE = (
        "DELETE FROM {table_name} WHERE {key_column} {op} (SELECT value FROM json_each(?))"
    )

    def __init__(
        self,
        directory: str,
        *,
        synchronous: str,
        max_pages: int,
        checkpoint_pages: int,
        living: Connections | None = None,
    ) -> None:
        """`living`: has the connection as soon as there is one, and as long."""
        self._living = [] if living is None else living
        self._synchronous = synchronous
        self.max_pages = max_pages
        self._checkpoint_pages = checkpoint_pages
        self._inserts: dict[int, str] = {}
        super().__init__(
            directory,
            auto_resume=False,
            name="events",
            multithreading=False,
            timeout=_READ_TIMEOUT_SECONDS,
            serializer=RawSerializer,
        )
        self._conn.text_factory = READABLE_TEXT  # persist-queue has set its own again
        # Its lock is one more that a signal could leave locked, and ours is held already.
        self.tran_lock = contextlib.nullcontext()  # type: ignore[assignment]

    # -- persist-queue's hooks ----------------------------------------------------------------

    def _new_db_connection(
        self, path: str, multithreading: bool, timeout: float
    ) -> sqlite3.Connection:
        place = path if path == self._MEMORY else f"{path}/{self.db_file_name}"
        connection: Connection = sqlite3.connect(
            place,
            timeout=timeout,
            check_same_thread=False,
            isolation_level=None,
            cached_statements=256,
            factory=functools.partial(Connection, self._living),  # type: ignore[call-overload]
        )
        connection.text_factory = READABLE_TEXT
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # What stands in a planted file's schema may call no function that does anything.
        connection.execute("PRAGMA trusted_schema = OFF")
        fresh = connection.execute("PRAGMA page_count").fetchone() == (0,)
        if not fresh:
            schema.check(connection)
        for pragma in (
            "journal_mode = WAL",
            f"synchronous = {self._synchronous}",
            "secure_delete = OFF",  # Debian's default zeroes pages: 1.3 ms instead of 0.5 per 100
            f"max_page_count = {self.max_pages}",  # kept by the connection, not by the file
            "journal_size_limit = 8388608",
            # By whoever commits, so always behind the gate.
            f"wal_autocheckpoint = {self._checkpoint_pages}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchone()
        if fresh:
            connection.execute(self._sql_create)
            schema.create(connection, schema_table(self), time.time())

    def _count(self) -> int:
        return 0  # COUNT(*) at each open took 1.4 s at a million rows; the ledger knows

    @property
    def connection(self) -> sqlite3.Connection:
        return self._conn

    def changes(self) -> int:
        """Rows the last statement touched, those of its triggers not counted."""
        return int(self._conn.execute("SELECT changes()").fetchone()[0])

    def checkpoint(self) -> None:
        """Let the WAL be written from its start again, if no reader is in the way."""
        try:
            self._conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except SQLITE_ERRORS:
            pass  # whatever is done next says what is wrong

    def empty_log(self) -> None:
        """Take it into the file, and leave nothing of it. For who has the file alone."""
        self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """For the few changes of more than one statement: all of them, or none."""
        self._conn.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._conn.execute("COMMIT")
        finally:
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK")

    def fill_nulls(self) -> None:
        """What a damaged page has left empty: a row that can't be counted can't be removed, nor
        what is removed with it, for the triggers put nothing into a NOT NULL."""
        for table in (self._table_name, "lanes", "graves", "leadership"):
            columns = self._conn.execute(f"PRAGMA table_info({table})").fetchall()
            needed = [(name, kind) for _, name, kind, is_needed, *_ in columns if is_needed]
            filled = ", ".join(
                f"{name} = IFNULL({name}, CAST('' AS {kind}))" for name, kind in needed
            )
            # SQLite takes "IS NULL" of such a column for false, unseen.
            kinds = ", ".join(f"TYPEOF({name})" for name, _ in needed)
            self._conn.execute(f"UPDATE OR IGNORE {table} SET {filled} WHERE 'null' IN ({kinds})")

    # -- enqueue ------------------------------------------------------------------------------

    @with_conditional_transaction
    def insert(self, rows: Sequence[Row]) -> tuple[str, list[Any]]:
        """One statement for all rows; returns the id of the last. Ids are consecutive."""
        sql = self._inserts.get(len(rows))
        if sql is None:
            sql = self._sql_insert + ", ".join([self._ROW_VALUES] * len(rows))
            self._inserts[len(rows)] = sql
        return sql, [value for row in rows for value in row]

    def find_recent(self, event_ids: Iterable[str], after_id: int) -> dict[str, int]:
        """Which of these were committed behind `after_id` by a commit that raised, and as what."""
        rows = self.connection.execute(
            f"SELECT event_id, _id FROM {self._table_name} WHERE _id > ? "
            "AND event_id IN (SELECT value FROM json_each(?))",
            (after_id, json.dumps(list(event_ids))),
        )
        return dict(rows.fetchall())

    def last_id(self) -> int:
        row = self.connection.execute(
            f"SELECT {cast('seq', int)} FROM sqlite_sequence WHERE name = ?",
            (self._table_name.strip("`"),),
        ).fetchone()
        return int(row[0]) if row else 0

    # -- claim --------------------------------------------------------------------------------

    def claimable(
        self,
        lane: int,
        now: float,
        limit: int,
        *,
        of_newest: bool = False,
        fresh_first: bool = False,
    ) -> list[int]:
        """Ids of ready events, oldest first; retries whose time has come before fresh ones. Or the
        newest first, retries among them. `fresh_first`: a retry only where nothing else is left.

        Read from the index (lane, due, _id) alone, so that a million rows behind cost nothing.
        """
        sql = (
            f"SELECT _id FROM {self._table_name} WHERE lane = ? AND status < 2 "
            "AND due {} ORDER BY due, _id {} LIMIT ?"
        )
        # What is due beyond any back-off was written before the clock jumped back.
        retries = self.connection.execute(
            sql.format("> 0 AND (due <= ? OR due > ?)", "ASC"),
            (lane, now, now + _FARTHEST_SECONDS, limit),
        )
        ids = sorted(row[0] for row in retries)
        order = "DESC" if of_newest else "ASC"
        fresh = [
            row[0] for row in self.connection.execute(sql.format("= ?", order), (lane, 0, limit))
        ]
        if fresh_first:
            return (fresh + ids)[:limit]
        return sorted(fresh + ids, reverse=True)[:limit] if of_newest else (ids + fresh)[:limit]

    def lane_of(self, key: int) -> int | None:
        row = self.connection.execute(
            f"SELECT {cast('lane', int)} FROM {self._table_name} WHERE _id = ? AND status < 2",
            (key,),
        ).fetchone()
        return None if row is None else int(row[0])

    def next_dues(self) -> dict[int, float]:
        """By lane; one statement, because there may be thousands."""
        rows = self.connection.execute(
            f"SELECT id, (SELECT {cast('due', float)} FROM {self._table_name} "
            "WHERE lane = lanes.id AND status < 2 ORDER BY due LIMIT 1) AS due "
            "FROM lanes WHERE ready > 0 AND due IS NOT NULL"
        )
        return dict(rows.fetchall())

    def fetch(
        self, ids: Sequence[int], max_bytes: int, *, newest_first: bool = False
    ) -> list[StoredRow]:
        """Rows by id, in that order, until they hold `max_bytes`: one at least."""
        rows: list[StoredRow] = []
        total = 0
        order = "DESC" if newest_first else "ASC"
        found = self.connection.execute(
            self._stored(f"_id IN (SELECT value FROM json_each(?)) ORDER BY _id {order}"),
            (json.dumps(ids),),
        )
        for row in found:  # read as it goes: what comes after the limit is never in memory
            rows.append(StoredRow._make(row))
            total += len(rows[-1].data)
            if total >= max_bytes:
                break
        found.close()
        return rows

    def page(
        self, where: str, parameters: Sequence[Any], limit: int, *, newest_first: bool = True
    ) -> list[StoredRow]:
        order = "DESC" if newest_first else "ASC"
        rows = self.connection.execute(
            self._stored(f"{where} ORDER BY _id {order} LIMIT ?"), (*parameters, limit)
        )
        return [StoredRow._make(row) for row in rows]

    def list_keys(
        self, where: str, after_id: int, limit: int
    ) -> list[tuple[int, int, int, float, str]]:
        """Without the payload, whose pages a search would have to read."""
        return self.connection.execute(
            f"SELECT {KEY_COLUMNS} FROM {self._table_name} "
            f"WHERE {where} AND _id > ? ORDER BY _id LIMIT ?",
            (after_id, limit),
        ).fetchall()

    def _stored(self, where: str) -> str:
        return f"SELECT {STORED_COLUMNS} FROM {self._table_name} WHERE {where}"

    def oldest_at(self) -> float | None:
        """When the oldest ready event was captured, found by lane: a million dead letters in
        front of it cost nothing."""
        first = (
            f"SELECT _id FROM {self._table_name} WHERE lane = lanes.id AND status < 2 "
            "AND due {} ORDER BY due, _id LIMIT 1"
        )
        row = self.connection.execute(
            f"SELECT MIN({cast('timestamp', float, 4e9)}) FROM {self._table_name} WHERE _id IN "
            f"(SELECT ({first.format('= 0')}) FROM lanes WHERE ready > 0 "
            f"UNION SELECT ({first.format('> 0')}) FROM lanes WHERE ready > 0)"
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def expired(self, lane: int, times: tuple[float, float], limit: int) -> list[int]:
        """Ready events of a lane captured between these, among its first `limit`; but for those
        revived by hand, which are tried once, however old."""
        rows = self.connection.execute(
            f"SELECT _id FROM {self._table_name} WHERE timestamp >= ? AND timestamp < ? AND _id IN "
            f"(SELECT _id FROM {self._table_name} WHERE lane = ? AND status < 2 "
            "ORDER BY due, _id LIMIT ?) AND NOT (status = ? AND attempts = 0)",
            (*times, lane, limit, schema.READY),
        )
        return [row[0] for row in rows]

    def list_dead(self, after_id: int, limit: int) -> list[tuple[int, float]]:
        """Dead letters by id, and since when they are."""
        return self.connection.execute(
            f"SELECT _id, {cast('due', float)} FROM {self._table_name} "
            "WHERE status >= 2 AND _id > ? ORDER BY _id LIMIT ?",
            (after_id, limit),
        ).fetchall()

    def forget_graves(self) -> None:
        """Drops so long ago that no 2xx can be under way for them."""
        self.connection.execute(
            "DELETE FROM graves WHERE id < (SELECT MAX(id) FROM graves) - ?", (_KEPT_GRAVES,)
        )

    # -- what becomes of an event -------------------------------------------------------------

    def ack_many(self, ids: Sequence[int]) -> int:
        """Delete what was delivered; the trigger counts it. Returns how many were still there."""
        self._delete(json.dumps(ids), "IN")
        return self.changes()

    @with_conditional_transaction
    def deliver_dropped(self, ids: Sequence[int]) -> tuple[str, tuple[str]]:
        """A 2xx for rows dropped while they were in flight: they count as delivered after all."""
        return (
            "UPDATE graves SET delivered = 1 WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )

    @with_conditional_transaction
    def move(
        self, ids: Sequence[int], status: int, reason: str, due: float
    ) -> tuple[str, tuple[Any, ...]]:
        """Set the state; the triggers do the rest."""
        return self._sql_mark_ack_status, (status, reason, due, status, json.dumps(ids))

    @with_conditional_transaction
    def note_attempt(
        self, key: int, at: float, what: str, due: float, unanswered: bool, deaths: int
    ) -> tuple[str, tuple[Any, ...]]:
        sql = (
            f"UPDATE {self._table_name} SET attempts = attempts + 1, deaths = ?, due = ?, "
            "unanswered = ?, reason = ?, history = json_insert("
            "CASE WHEN NOT json_valid(history) THEN '[]' "
            f"WHEN json_array_length(history) >= {_KEPT_ATTEMPTS} "
            "THEN json_remove(history, '$[0]') ELSE history END, '$[#]', json_array(?, ?)) "
            "WHERE _id = ?"
        )
        return sql, (deaths, due, int(unanswered), what, at, what, key)

    @with_conditional_transaction
    def note_start(self, key: int) -> tuple[str, tuple[int]]:
        """Before a send that may kill the flusher: who comes back without a word, counted."""
        return f"UPDATE {self._table_name} SET deaths = deaths + 1 WHERE _id = ?", (key,)

    @with_conditional_transaction
    def note_answer(self, key: int) -> tuple[str, tuple[int]]:
        return f"UPDATE {self._table_name} SET deaths = 0 WHERE _id = ?", (key,)

    @with_conditional_transaction
    def pass_over(
        self, ids: Sequence[int], due: float, reason: str
    ) -> tuple[str, tuple[float, str, str]]:
        """Behind all others until then; no attempt is counted."""
        sql = (
            f"UPDATE {self._table_name} SET due = ?, reason = ? "
            "WHERE status < 2 AND _id IN (SELECT value FROM json_each(?))"
        )
        return sql, (due, reason, json.dumps(ids))

    @with_conditional_transaction
    def forget_due(self) -> tuple[str, tuple[()]]:
        """Every ready event may be tried at once. By lanes, so that the index is used."""
        lanes = "SELECT id FROM lanes"
        sql = f"UPDATE {self._table_name} SET due = 0 WHERE lane IN ({lanes}) AND status < 2"
        return f"{sql} AND due > 0", ()

    @with_conditional_transaction
    def revive(self, ids: Sequence[int]) -> tuple[str, tuple[Any, ...]]:
        sql = (
            f"UPDATE {self._table_name} SET status = ?, due = 0, attempts = 0, deaths = 0, "
            "unanswered = 0 WHERE status = ? AND _id IN (SELECT value FROM json_each(?))"
        )
        return sql, (schema.READY, schema.DEAD, json.dumps(ids))

    def lanes_of(self, ids: Sequence[int]) -> list[int]:
        rows = self.connection.execute(
            f"SELECT DISTINCT lane FROM {self._table_name} "
            "WHERE _id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )
        return [row[0] for row in rows]

    def reroute(self, ids: Sequence[int], lanes: Mapping[int, int]) -> None:
        """From these lanes to those, ready as if new."""
        self.connection.execute(schema.REROUTED.format(events=self._table_name))
        self._reroute(ids, lanes)

    @with_conditional_transaction
    def _reroute(self, ids: Sequence[int], lanes: Mapping[int, int]) -> tuple[str, tuple[Any, ...]]:
        sql = (
            f"UPDATE {self._table_name} SET status = ?, due = 0, attempts = 0, deaths = 0, "
            "unanswered = 0, "
            "lane = (SELECT value FROM json_each(?) WHERE key = CAST(lane AS TEXT)) "
            "WHERE _id IN (SELECT value FROM json_each(?))"
        )
        return sql, (schema.READY, json.dumps(lanes), json.dumps(ids))

    def adopt(self, ids: Sequence[int], lane: int) -> None:
        """To this lane, whatever theirs was; in the state they are in."""
        self.connection.execute(schema.REROUTED.format(events=self._table_name))
        self._adopt(ids, lane)

    @with_conditional_transaction
    def _adopt(self, ids: Sequence[int], lane: int) -> tuple[str, tuple[int, str]]:
        sql = (
            f"UPDATE {self._table_name} SET lane = ? "
            "WHERE _id IN (SELECT value FROM json_each(?)) AND lane NOT IN (SELECT id FROM lanes)"
        )
        return sql, (lane, json.dumps(ids))

    # -- what gives way -----------------------------------------------------------------------

    def oldest_dead(self, limit: int) -> list[int]:
        rows = self.connection.execute(
            f"SELECT _id FROM {self._table_name} WHERE status >= 2 ORDER BY _id LIMIT ?", (limit,)
        )
        return [row[0] for row in rows]

    def oldest_lanes(self, category: str, limit: int) -> list[int]:
        """Lanes of a category with ready events, that with the oldest first."""
        first = (
            f"SELECT _id FROM {self._table_name} WHERE lane = lanes.id AND status < 2 "
            "AND due {} ORDER BY due, _id LIMIT 1"
        )
        fresh, retry = first.format("= 0"), first.format("> 0")
        rows = self.connection.execute(
            f"SELECT id, COALESCE(({fresh}), ({retry})) AS oldest FROM lanes "
            "WHERE category = ? AND ready > 0 ORDER BY oldest LIMIT ?",
            (category, limit),
        )
        return [row[0] for row in rows]

    def oldest_in_lane(self, lane: int, limit: int) -> list[int]:
        """Read from the index (lane, due, _id) alone; of those tried before, the next due."""
        sql = (
            f"SELECT _id FROM {self._table_name} WHERE lane = ? AND status < 2 AND due {{}} "
            "ORDER BY due, _id LIMIT ?"
        )
        fresh = self.connection.execute(sql.format("= 0"), (lane, limit)).fetchall()
        tried = self.connection.execute(sql.format("> 0"), (lane, limit)).fetchall()
        return sorted(row[0] for row in fresh + tried)[:limit]

    def sizes(self, ids: Sequence[int]) -> dict[int, int]:
        """What their bodies take."""
        rows = self.connection.execute(
            f"SELECT _id, CAST(size AS INTEGER) FROM {self._table_name} "
            "WHERE _id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )
        return dict(rows.fetchall())

    def turn_away(self, counts: Mapping[int, int]) -> None:
        """Count events of these lanes that were never stored as dropped by overflow."""
        self.connection.execute(schema.TURNED_AWAY)
        self._turn_away(json.dumps(counts))

    @with_conditional_transaction
    def _turn_away(self, counts: str) -> tuple[str, tuple[str, str]]:
        sql = (
            "UPDATE lanes SET accepted = accepted + "
            "(SELECT value FROM json_each(?) WHERE key = CAST(lanes.id AS TEXT)) "
            "WHERE id IN (SELECT CAST(key AS INTEGER) FROM json_each(?))"
        )
        return sql, (counts, counts)

    def limit_pages(self, pages: int) -> None:
        self.max_pages = pages
        self.connection.execute(f"PRAGMA max_page_count = {pages}")


def schema_table(queue: EventQueue) -> str:
    return str(queue._table_name)
