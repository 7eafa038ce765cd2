"""What we stand on in persist-queue. It is documented nowhere, so a release may move it.

A failure here says which of our modules to look at before `persist-queue` is raised in
pyproject.toml. Nothing here looks at our own code, but for the last section.
"""

import inspect
import sqlite3
from importlib import metadata

import persistqueue.sqlackqueue
import persistqueue.sqlbase
import pytest
from persistqueue.sqlackqueue import AckStatus, SQLiteAckQueue
from persistqueue.sqlbase import with_conditional_transaction

from raven_spool.spool import schema
from raven_spool.spool.queue import EventQueue, RawSerializer

VERSION = metadata.version("persist-queue")
MOVED = f"persist-queue {VERSION} has moved what raven_spool/spool/queue.py stands on: "


@pytest.fixture
def queue(tmp_path):
    """persist-queue's own ack queue, as it comes."""
    made = SQLiteAckQueue(str(tmp_path), name="events", auto_resume=False)
    yield made
    made.close()


class Recorded(SQLiteAckQueue):
    """Tells which hooks the constructor calls, in which order, and what exists by then."""

    def __init__(self, path, **options):
        self.calls = []
        super().__init__(path, **options)

    def _new_db_connection(self, path, multithreading, timeout):
        known = {"name", "path", "db_file_name", "_serializer", "auto_commit"} <= set(vars(self))
        self.calls.append(("connect", path, multithreading, timeout, known, hasattr(self, "_conn")))
        return super()._new_db_connection(path, multithreading, timeout)

    def _count(self):
        self.calls.append(("count",))
        return super()._count()

    def resume_unack_tasks(self):
        self.calls.append(("resume",))
        super().resume_unack_tasks()


# -- names and templates ----------------------------------------------------------------------


def test_table_is_named_by_kind_and_name(queue):
    assert queue._table_name == "`ack_queue_events`", (
        MOVED + "the table's name; spools on disk would seem empty (schema.py, last_id)"
    )
    assert queue._key_column == "_id", MOVED + "the key column's name, which statements spell out"
    assert queue.db_file_name == "data.db", MOVED + "the file's name (places.py DATABASE)"
    assert queue._MEMORY == ":memory:", MOVED + "the name of a queue in memory (places.py MEMORY)"


@pytest.mark.parametrize(
    ("template", "formatted"),
    [("_SQL_CREATE", "_sql_create"), ("_SQL_INSERT", "_sql_insert")],
)
def test_templates_are_filled_with_table_and_key(queue, monkeypatch, template, formatted):
    assert isinstance(getattr(SQLiteAckQueue, template), str), MOVED + f"the template {template}"
    monkeypatch.setattr(SQLiteAckQueue, template, "{table_name} {key_column}")

    assert getattr(queue, formatted) == "`ack_queue_events` _id", (
        MOVED + f"{template} is no longer what {formatted} fills in"
    )


def test_ack_template_is_filled_with_table_and_key(queue, monkeypatch):
    monkeypatch.setattr(SQLiteAckQueue, "_SQL_MARK_ACK_UPDATE", "{table_name} {key_column}")

    assert queue._sql_mark_ack_status == "`ack_queue_events` _id", (
        MOVED + "_SQL_MARK_ACK_UPDATE is no longer what _sql_mark_ack_status fills in (move)"
    )


def test_delete_takes_the_operator_from_its_caller(queue, monkeypatch):
    monkeypatch.setattr(
        SQLiteAckQueue,
        "_SQL_DELETE",
        "DELETE FROM {table_name} WHERE {key_column} {op} (SELECT value FROM json_each(?))",
    )
    for item in (b"1", b"2", b"3"):
        queue.put(item)

    queue._delete("[1, 3]", "IN")

    rows = queue._conn.execute("SELECT _id FROM ack_queue_events").fetchall()
    assert rows == [(2,)], MOVED + "_delete(key, op) (ack_many)"


def test_states_are_what_is_stored():
    found = {name: value for name, value in vars(AckStatus).items() if name[0] != "_"}

    assert found == {
        "inited": "0", "ready": "1", "unack": "2", "acked": "5", "ack_failed": "9",
    }, MOVED + "the ack states, which stand in every stored row (schema.py)"  # fmt: skip


# -- construction -----------------------------------------------------------------------------


def test_constructor_connects_then_counts_and_resumes_last(tmp_path):
    queue = Recorded(str(tmp_path), name="events", multithreading=False, timeout=0.1)
    try:
        connect = ("connect", str(tmp_path), False, 0.1, True, False)
        assert queue.calls == [connect, ("count",), ("resume",), ("count",)], (
            MOVED + "the order of its constructor (EventQueue.__init__, _new_db_connection)"
        )
    finally:
        queue.close()


def test_constructor_does_not_resume_when_told_so(tmp_path):
    queue = Recorded(str(tmp_path), auto_resume=False)
    try:
        assert ("resume",) not in queue.calls, (
            MOVED + "auto_resume=False: opening a spool would take what the leader holds"
        )
    finally:
        queue.close()


def test_one_connection_serves_all(queue):
    assert queue._conn is queue._getter is queue._putter, (
        MOVED + "one connection without multithreading (EventQueue.connection, close)"
    )


def test_constructor_takes_our_arguments():
    parameters = {
        *inspect.signature(SQLiteAckQueue.__init__).parameters,
        *inspect.signature(persistqueue.sqlbase.SQLiteBase.__init__).parameters,
    }
    ours = {"path", "auto_resume", "name", "multithreading", "timeout", "serializer"}

    assert ours <= parameters, MOVED + f"the argument {sorted(ours - parameters)}"


def test_constructor_leaves_an_existing_directory_alone(tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "data.db").touch(0o600)
    SQLiteAckQueue(str(tmp_path), auto_resume=False).close()

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"data.db": 0o600}, MOVED + "it makes or opens files of its own"
    assert tmp_path.stat().st_mode & 0o777 == 0o700, MOVED + "it changes the directory"


def test_close_closes_the_connection_and_may_be_repeated(queue):
    connection = queue._conn
    queue.close()
    queue.close()

    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")


# -- transactions -----------------------------------------------------------------------------


class Statements(SQLiteAckQueue):
    @with_conditional_transaction
    def run(self, sql, *parameters):
        return sql, parameters

    @with_conditional_transaction
    def fail(self):
        raise RuntimeError("before any statement")


class Watched:
    """A lock that tells when it is taken."""

    def __init__(self):
        self.events = []

    def __enter__(self):
        self.events.append("taken")

    def __exit__(self, *_):
        self.events.append("freed")


@pytest.fixture
def statements(tmp_path):
    made = Statements(str(tmp_path), name="events", auto_resume=False)
    made.tran_lock = Watched()
    yield made
    made.close()


def test_wrapper_runs_one_statement_under_the_replaceable_lock(statements):
    last = statements.run("INSERT INTO ack_queue_events (data) VALUES (?), (?)", b"1", b"2")

    assert last == 2, MOVED + "its wrapper returns the last row's id (EventQueue.insert)"
    assert statements.tran_lock.events == ["taken", "freed"], (
        MOVED + "the wrapper's lock tran_lock, which EventQueue replaces by none"
    )


def test_wrapper_has_committed_when_it_returns(statements, tmp_path):
    statements.run("INSERT INTO ack_queue_events (data) VALUES (?)", b"1")

    other = sqlite3.connect(tmp_path / "data.db")
    try:
        (count,) = other.execute("SELECT COUNT(*) FROM ack_queue_events").fetchone()
    finally:
        other.close()
    assert count == 1, MOVED + "its wrapper commits"
    assert not statements._conn.in_transaction


def test_wrapper_leaves_nothing_behind_when_the_statement_fails(statements):
    with pytest.raises(sqlite3.OperationalError):
        statements.run("INSERT INTO nowhere VALUES (1)")
    with pytest.raises(RuntimeError):
        statements.fail()

    assert not statements._conn.in_transaction, MOVED + "its wrapper rolls back"
    assert statements.tran_lock.events == ["taken", "freed"] * 2


def test_wrapper_in_autocommit_runs_no_begin(tmp_path):
    """What makes one statement one transaction in EventQueue."""

    class Autocommit(Statements):
        def _new_db_connection(self, path, multithreading, timeout):
            connection = super()._new_db_connection(path, multithreading, timeout)
            connection.isolation_level = None
            return connection

    queue = Autocommit(str(tmp_path), name="events", auto_resume=False)
    seen = []
    queue._conn.set_trace_callback(seen.append)
    try:
        queue.run("INSERT INTO ack_queue_events (data) VALUES (1)")
    finally:
        queue.close()

    assert seen == ["INSERT INTO ack_queue_events (data) VALUES (1)"], (
        MOVED + f"its wrapper runs statements of its own: {seen}"
    )


# -- serializers ------------------------------------------------------------------------------


def test_serializer_is_asked_to_dump_and_load(tmp_path):
    queue = SQLiteAckQueue(str(tmp_path), auto_resume=False, serializer=RawSerializer)
    try:
        queue.put(b"as it is")
        (stored,) = queue._conn.execute("SELECT data FROM ack_queue_default").fetchone()
        assert (stored, queue.get(block=False)) == (b"as it is", b"as it is"), (
            MOVED + "the serializer protocol (RawSerializer)"
        )
    finally:
        queue.close()


# -- our queue upon it ------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path):
    made = EventQueue(str(tmp_path), synchronous="NORMAL", max_pages=1000, checkpoint_pages=1000)
    yield made
    made.close()


def test_our_states_are_theirs():
    assert str(schema.READY) == AckStatus.ready
    assert str(schema.DEAD) == AckStatus.ack_failed
    assert str(schema.DROPPED) not in vars(AckStatus).values()


def test_our_table_is_made_by_their_constructor(ours):
    columns = [row[1] for row in ours.connection.execute("PRAGMA table_info(ack_queue_events)")]

    assert columns[0] == "_id"
    assert columns[-1] == "data"


def test_our_pragmas_survive_their_constructor(ours):
    found = {
        name: ours.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "secure_delete", "max_page_count")
    }

    assert found == {
        "journal_mode": "wal", "synchronous": 1, "secure_delete": 0, "max_page_count": 1000,
    }  # fmt: skip


def test_our_queue_runs_no_statement_of_theirs(ours):
    seen = []
    ours.connection.set_trace_callback(seen.append)
    ours.note_answer(1)
    ours.move([1], schema.DEAD, "reason", 1.0)
    ours.ack_many([1])

    assert [text.split()[0] for text in seen] == ["UPDATE", "UPDATE", "DELETE", "SELECT"]


def test_opening_ours_counts_no_rows(ours, tmp_path):
    seen = []

    class Traced(EventQueue):
        def _new_db_connection(self, path, multithreading, timeout):
            connection = super()._new_db_connection(path, multithreading, timeout)
            connection.set_trace_callback(seen.append)
            return connection

    Traced(str(tmp_path), synchronous="NORMAL", max_pages=1000, checkpoint_pages=1000).close()

    assert not [text for text in seen if "COUNT(" in text.upper()], (
        MOVED + "opening counts the rows by another way than _count"
    )
