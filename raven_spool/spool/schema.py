"""The tables, their triggers, and the steps from one version to the next.

The ledger is kept by triggers, inside the transaction that moves the row and from OLD.status to
NEW.status: no interleaving of ack, bury, removal and overflow by several processes can count an
event twice (kept by row counts 7 of 30 interleavings went wrong, by triggers none).
`accepted = ready + dead + delivered + dropped` holds in every committed state.
"""

import functools
import sqlite3

from raven_spool.errors import SchemaTooNew, SpoolCorrupt

VERSION = 1
PAGE_BYTES = 4096
APPLICATION_ID = 0x52565350  # "RVSP": tells a spool from somebody else's SQLite file

# persist-queue's states (AckStatus) and one of ours. `inited` and `ready` are both ready: a row
# is inserted as the first and revived as the second. `unack` and `acked` are never stored: a
# claim lives in memory, and what is delivered is deleted and counted.
READY, DEAD, DROPPED = 1, 9, 7
_TABLE = "`ack_queue_events`"  # as persist-queue quotes it

# persist-queue's `_SQL_CREATE`, with its two names in it. The payload comes last, so that a scan
# of the other columns does not read its overflow pages.
EVENTS = """
CREATE TABLE IF NOT EXISTS {table_name} (
    {key_column} INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: acks may come late
    status INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    due REAL NOT NULL DEFAULT 0,         -- 0: in order of arrival; else not before; dead: since
    attempts INTEGER NOT NULL DEFAULT 0, -- finished ones that counted
    deaths INTEGER NOT NULL DEFAULT 0,   -- sends of it that ended a flusher, or raised
    unanswered INTEGER NOT NULL DEFAULT 0,
    timestamp REAL NOT NULL,             -- created_at
    event_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    size INTEGER NOT NULL,
    crc INTEGER NOT NULL,                -- of headers and payload: bad pages read without complaint
    reason TEXT NOT NULL DEFAULT '',
    history TEXT NOT NULL DEFAULT '[]',  -- the last 20 attempts: [[at, "what happened"], ...]
    headers TEXT NOT NULL,
    data BLOB NOT NULL
)
"""

_REST = """
CREATE INDEX events_ready ON {events} (lane, due, _id) WHERE status < 2;
CREATE INDEX events_dead ON {events} (_id) WHERE status >= 2;

CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- What a delivery needs, credentials included, apart from the events. One JSON object, so that a
-- new delivery setting needs no migration.
CREATE TABLE destinations (id INTEGER PRIMARY KEY, settings TEXT NOT NULL UNIQUE);

-- One row for each destination and category, one with category '' for the destination itself.
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY,
    destination INTEGER NOT NULL,
    category TEXT NOT NULL,
    open_at REAL NOT NULL DEFAULT 0,
    hold_seconds REAL NOT NULL DEFAULT 0,
    hold TEXT NOT NULL DEFAULT '',
    failures INTEGER NOT NULL DEFAULT 0,
    ready INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    UNIQUE (destination, category)
);

CREATE TABLE drops (
    lane INTEGER NOT NULL, reason TEXT NOT NULL, events INTEGER NOT NULL,
    PRIMARY KEY (lane, reason)
) WITHOUT ROWID;

-- Rows dropped lately: a 2xx that arrives for one moves its count from dropped to delivered.
CREATE TABLE graves (
    id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, reason TEXT NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE leadership (
    epoch INTEGER NOT NULL, leading INTEGER NOT NULL, unclean INTEGER NOT NULL
);

CREATE TRIGGER event_enqueued AFTER INSERT ON {events} BEGIN
    UPDATE lanes SET accepted = accepted + 1, ready = ready + 1, bytes = bytes + NEW.size
    WHERE id = NEW.lane;
END;

CREATE TRIGGER event_moved AFTER UPDATE OF status ON {events} WHEN OLD.status <> NEW.status BEGIN
    UPDATE lanes SET
        ready = ready + (NEW.status < 2) - (OLD.status < 2),
        dead = dead + (NEW.status = 9) - (OLD.status = 9)
    WHERE id = NEW.lane;
END;

CREATE TRIGGER event_dropped AFTER UPDATE OF status ON {events} WHEN NEW.status = 7 BEGIN
    DELETE FROM {events} WHERE _id = NEW._id;  -- first, so that a full file has room for the rest
    INSERT INTO drops VALUES (NEW.lane, NEW.reason, 1)
        ON CONFLICT DO UPDATE SET events = events + 1;
    INSERT INTO graves (id, lane, reason) VALUES (NEW._id, NEW.lane, NEW.reason);
END;

-- A plain DELETE means delivered, whatever state the row was in: the late 2xx of an old leader
-- takes a dead letter with it.
CREATE TRIGGER event_removed AFTER DELETE ON {events} BEGIN
    UPDATE lanes SET
        ready = ready - (OLD.status < 2),
        dead = dead - (OLD.status = 9),
        delivered = delivered + (OLD.status <> 7),
        bytes = bytes - OLD.size
    WHERE id = OLD.lane;
END;

CREATE TRIGGER dropped_was_delivered AFTER UPDATE OF delivered ON graves BEGIN
    UPDATE lanes SET delivered = delivered + 1 WHERE id = OLD.lane;
    UPDATE drops SET events = events - 1 WHERE lane = OLD.lane AND reason = OLD.reason;
    DELETE FROM graves WHERE id = OLD.id;
END;

INSERT INTO leadership VALUES (0, 0, 0);
INSERT INTO meta VALUES ('created_at', {created_at});
"""

# An event that goes elsewhere takes all its counts with it, so that each lane adds up as well.
# Where its state changes in the same statement, `event_moved` counts that in the new lane, before
# or after this. Apart from the rest because it is also made by the first `reroute`: spools from
# before there was one lack it.
REROUTED = """
CREATE TRIGGER IF NOT EXISTS event_rerouted AFTER UPDATE OF lane ON {events}
WHEN OLD.lane <> NEW.lane BEGIN
    UPDATE lanes SET
        accepted = accepted - 1,
        ready = ready - (OLD.status < 2),
        dead = dead - (OLD.status = 9),
        bytes = bytes - OLD.size
    WHERE id = OLD.lane;
    UPDATE lanes SET
        accepted = accepted + 1,
        ready = ready + (OLD.status < 2),
        dead = dead + (OLD.status = 9),
        bytes = bytes + OLD.size
    WHERE id = NEW.lane;
END;
"""

# What is accepted, and neither ready nor dead, was dropped at the door. Made by the first who
# turns an event away, as that above.
TURNED_AWAY = """
CREATE TRIGGER IF NOT EXISTS event_turned_away AFTER UPDATE OF accepted ON lanes
WHEN NEW.accepted - OLD.accepted > NEW.ready + NEW.dead - OLD.ready - OLD.dead BEGIN
    INSERT INTO drops VALUES (
        NEW.id, 'overflow',
        NEW.accepted - OLD.accepted - (NEW.ready + NEW.dead - OLD.ready - OLD.dead)
    ) ON CONFLICT DO UPDATE SET events = events + excluded.events;
END;
"""

_LATE = {"event_rerouted", "event_turned_away"}


def create(connection: sqlite3.Connection, events: str, now: float) -> None:
    """Everything beside persist-queue's own table, in one transaction.

    Crash:
        All or nothing; the file is not `current` yet, and a new one will be made.
    """
    script = (_REST + REROUTED + TURNED_AWAY).format(events=events, created_at=float(now))
    connection.executescript(
        f"BEGIN IMMEDIATE;{script}PRAGMA application_id = {APPLICATION_ID};"
        f"PRAGMA user_version = {VERSION};COMMIT;"
    )


def check(connection: sqlite3.Connection) -> None:
    """Refuse a file that this version can't read, before anything is written to it.

    Raises:
        SchemaTooNew: a newer raven_spool wrote it.
        SpoolCorrupt: it is not a spool.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise SpoolCorrupt("not a raven_spool file")
    if version > VERSION:
        raise SchemaTooNew(
            f"written by a newer raven_spool (schema {version}, this one reads {VERSION}): "
            "upgrade raven_spool, or give another spool path"
        )
    foreign = find_foreign(connection)
    if foreign:
        raise SpoolCorrupt(f"its schema is not ours: {foreign[:80]!r}")


def find_foreign(connection: sqlite3.Connection) -> str | None:
    """The name of something in the schema that we have not made, word for word. A trigger or view
    runs in whoever opens the file, and so do the functions in a check, a default, a generated
    column or an index: one that never ends, or asks for a gigabyte, would stop it."""
    foreign = _parts(connection) - _own_parts()
    return min(foreign)[1] if foreign else None


def _parts(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """All but the indexes that SQLite makes by itself, which have no words."""
    return set(
        connection.execute(
            "SELECT CAST(type AS TEXT), CAST(name AS TEXT), CAST(sql AS TEXT) FROM sqlite_master "
            "WHERE sql IS NOT NULL"
        ).fetchall()
    )


def missing(connection: sqlite3.Connection) -> set[str]:
    """Triggers that a file must have, and has not: its ledger is no longer kept."""
    lacking = _own_parts() - _parts(connection)
    return {name for kind, name, _ in lacking if kind == "trigger"} - _LATE


# What an operator's ANALYZE leaves.
_STATISTICS = {
    ("table", "sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"),
    ("table", "sqlite_stat4", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"),
}


@functools.cache
def _own_parts() -> set[tuple[str, str, str]]:
    """As SQLite keeps them."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.execute(EVENTS.format(table_name=_TABLE, key_column="_id"))
        create(connection, _TABLE, 0.0)
        return _parts(connection) | _STATISTICS
    finally:
        connection.close()
