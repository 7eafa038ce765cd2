"""Who may read, what is planted, what must never be shown: the spool's directory as a target."""

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raven_spool.config import Options, read_options
from raven_spool.errors import ConfigurationError
from raven_spool.model import Destination, Event, Request
from raven_spool.protocol import build_request
from raven_spool.spool import Spool
from tests.faults.children import NOBODY, Child, Notes, become
from tests.faults.events import make_transport, send, stored_ids
from tests.support import evidence
from tests.support.answers import status
from tests.support.ingest import Ingest
from tests.support.spools import HERE, NOW, check_ledger, event
from tests.support.tool import KEY, SECRET, destination, make_event, run

# -- modes ----------------------------------------------------------------------------------------


def watch_modes(notes: Notes, root: Path) -> None:
    """After each call that can make a file: whatever others may read or write, noted."""
    real_open, real_mkdir, real_mkfifo = os.open, os.mkdir, os.mkfifo

    def look() -> None:
        for path in [root, *root.rglob("*")] if root.exists() else []:
            with contextlib.suppress(FileNotFoundError):
                mode = stat.S_IMODE(path.lstat().st_mode)
                if mode & 0o077:
                    notes.write(f"{path.name} {mode:o}")

    def watched(call: Callable[..., object]) -> Callable[..., object]:
        def watch(*args: object, **options: object) -> object:
            made = call(*args, **options)
            look()
            return made

        return watch

    import posix

    os.open, os.mkdir, os.mkfifo = map(watched, (real_open, real_mkdir, real_mkfifo))
    posix.open = watched(posix.open)


def write_under(umask: int, root: Path, url: str, seen: Path) -> None:
    import encodings.idna  # noqa: F401  nobody may not read this Python's library

    from raven_spool.spool.late import load_queue

    load_queue()
    os.umask(umask)
    watch_modes(Notes(seen), root)
    become()
    transport = make_transport(root)
    send(transport, url)
    assert transport.flush(20)
    transport.stats()
    assert transport.flusher.spool.volatile == 0
    found = sorted((path.name, oct(stat.S_IMODE(path.stat().st_mode))) for path in root.rglob("*"))
    Notes(seen.with_name("found")).write(json.dumps(found))
    transport.close(10)


@pytest.mark.evidence
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_files_are_private_at_every_instant_under_any_umask(nobodys_path: Path, umask: int) -> None:
    root, seen = nobodys_path / "spool", nobodys_path / "seen"
    for name in (seen, nobodys_path / "found"):
        name.touch()
        name.chmod(0o666)
    with Ingest() as ingest, Child(write_under, umask, root, ingest.url, seen) as child:
        assert child.join() == 0
        assert len(ingest.requests) == 1
    assert Notes(seen).read() == []
    modes = dict(json.loads(Notes(nobodys_path / "found").read()[0]))
    assert {"data.db", "data.db-wal", "data.db-shm", "current", "wake"} <= modes.keys()
    directories = {name for name in modes if name.startswith("g-")}
    assert {mode for name, mode in modes.items() if name not in directories} == {"0o600"}
    assert {modes[name] for name in directories} == {"0o700"}
    evidence.note(
        f"every file looked at after each call that makes one, umask: {umask:03o}",
        promise=8, tried=f"{len(modes)} files and directories", events=1, lost=0,
        seen="none open to others",
    )  # fmt: skip


@pytest.fixture
def nobodys_path() -> Iterator[Path]:
    """Not below pytest's directories, which are closed to others."""
    path = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


# -- what is planted ------------------------------------------------------------------------------


def plant_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def plant_pipe(path: Path, target: Path) -> None:
    os.mkfifo(path)


def plant_directory(path: Path, target: Path) -> None:
    path.mkdir()


FILES = [
    *("current", "write.lock", "queue.lock", "write.turn", "drain.lock", "drain.leader", "wake"),
    *("data.db", "data.db-wal", "data.db-shm", "data.db-journal"),
]


def use(root: Path, url: str, returned: Path) -> None:
    transport = make_transport(root)
    for _ in range(3):
        Notes(returned).write(send(transport, url))
    transport.flusher.spool.leadership.look()
    transport.flush(1)
    transport.close(1)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        *((name, plant_link) for name in FILES),
        *((name, plant_pipe) for name in ("current", "drain.leader", "data.db-journal")),
        *((name, plant_directory) for name in ("current", "wake")),
    ],
)
def test_planted_file_is_not_followed_and_stops_nobody(
    tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    check_planted(tmp_path, name, plant)


@pytest.mark.soak
@pytest.mark.parametrize("plant", [plant_link, plant_pipe, plant_directory])
@pytest.mark.parametrize("name", FILES)
def test_planted_file_of_every_kind_is_not_followed(
    tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    check_planted(tmp_path, name, plant)


def check_planted(tmp_path: Path, name: str, plant: Callable[[Path, Path], None]) -> None:
    root, outside = tmp_path / "spool", tmp_path / "outside"
    before = Spool(str(root))
    assert before.enqueue(event(1), HERE)
    before.finish()
    inside = next(root.glob("g-*")) if name.startswith("data") else root
    (inside / name).unlink(missing_ok=True)
    outside.write_bytes(b"not ours")
    outside.chmod(0o644)
    plant(inside / name, outside)
    kept = outside.stat()
    with Ingest() as ingest, Child(use, root, ingest.url, tmp_path / "returned") as child:
        assert child.join(40) == 0
        sent = Notes(tmp_path / "returned").read()
        assert len(sent) == 3
        assert set(sent) <= {*ingest.event_ids(), *(stored_ids_if_any(root))}
    now = outside.stat()
    assert outside.read_bytes() == b"not ours"
    assert (now.st_mode, now.st_mtime_ns, now.st_uid) == (kept.st_mode, kept.st_mtime_ns, 0)
    evidence.note(
        f"planted in the spool: {plant.__name__.removeprefix('plant_')} as {name}",
        promise=8, tried="1 program", events=3, lost=0, seen="nothing outside was touched",
    )  # fmt: skip


def stored_ids_if_any(root: Path) -> list[str]:
    if not (root / "current").is_file():  # a pipe would not let us go
        return []
    with contextlib.suppress(OSError, sqlite3.Error, TypeError):
        return stored_ids(root)
    return []


def test_generation_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    theirs, ours = Spool(str(tmp_path / "theirs")), Spool(str(tmp_path / "ours"))
    for spool in (theirs, ours):
        assert spool.enqueue(event(1), HERE)
        spool.finish()
    generation = next((tmp_path / "ours").glob("g-*"))
    for file in generation.iterdir():
        file.unlink()
    generation.rmdir()
    generation.symlink_to(next((tmp_path / "theirs").glob("g-*")))
    assert ours.enqueue(event(2), HERE)
    ours.finish()
    assert theirs.stats()["accepted"] == 1
    assert not (tmp_path / "ours" / (tmp_path / "ours/current").read_text().strip()).is_symlink()


def rewrite(old: str, new: str) -> str:
    """A change of the events' table that SQLite's own commands would not make."""
    return (
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET "
        f"sql = replace(sql, '{old}', '{new}') WHERE name = 'ack_queue_events'"
    )


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
PROGRAMS = {
    "trigger": """CREATE TRIGGER planted AFTER INSERT ON ack_queue_events BEGIN DELETE FROM meta;
    END""",
    "endless trigger": f"""CREATE TRIGGER endless AFTER INSERT ON ack_queue_events BEGIN INSERT INTO
    graves {ENDLESS} i, 1, '', 0 FROM n; END""",
    "view": "CREATE VIEW planted AS SELECT 1",
    "other trigger": """DROP TRIGGER event_enqueued; CREATE TRIGGER event_enqueued AFTER INSERT ON
    ack_queue_events BEGIN DELETE FROM lanes; END""",
    "view for a table": f"""ALTER TABLE ack_queue_events RENAME TO moved; CREATE VIEW
    ack_queue_events AS {ENDLESS} i AS _id, 0 AS status FROM n""",
    "view for lanes": f"""ALTER TABLE lanes RENAME TO moved; CREATE VIEW lanes AS {ENDLESS} i AS id
    FROM n""",
    "virtual table": "CREATE VIRTUAL TABLE planted USING fts5(text)",
    "costly index": "CREATE INDEX planted ON ack_queue_events (length(hex(zeroblob(99999999))))",
    # Each send took ten seconds and a gigabyte with such.
    "costly check": rewrite(
        "data BLOB NOT NULL", "data BLOB NOT NULL CHECK (length(hex(zeroblob(400000000))) > 0)"
    ),
    "costly default": rewrite("DEFAULT ''[]''", "DEFAULT (hex(zeroblob(400000000)))"),
    "check that is never met": rewrite("data BLOB NOT NULL", "data BLOB NOT NULL CHECK (0)"),
    "generated column": rewrite(
        "data BLOB NOT NULL", "data BLOB NOT NULL, x AS (length(hex(zeroblob(400000000))))"
    ),
    "no words": "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 0 WHERE sql <> ''",
}


def plant_program(path: Path, program: str) -> None:
    spool = Spool(str(path))
    assert spool.enqueue(event(1), HERE)
    spool.finish()
    with contextlib.closing(sqlite3.connect(next(path.glob("g-*/data.db")))) as connection:
        connection.executescript(program)


@pytest.mark.parametrize("name", PROGRAMS)
def test_planted_program_in_the_schema_never_runs(tmp_path: Path, name: str) -> None:
    plant_program(tmp_path, PROGRAMS[name])
    fresh = Spool(str(tmp_path))
    assert fresh.enqueue(event(2), HERE, timeout_seconds=5)  # an endless one would hang here
    assert fresh.stats()["accepted"] == 1  # in a file of its own
    assert len(list(tmp_path.glob("g-*"))) == 2
    assert fresh.leadership.take()
    for _ in range(10):  # nor does it run in who brings back what is in that file
        fresh.salvage.step()
    assert [stored.event.event_id for stored in fresh.page()] == [
        event(number).event_id for number in (1, 2)
    ]
    fresh.leadership.let_go()
    fresh.finish()


@pytest.mark.parametrize(
    "pragma",
    [
        "auto_vacuum = FULL", "journal_mode = DELETE", "secure_delete = ON", "page_size = 512",
        "default_cache_size = 1", "temp_store_directory = '/tmp'", "legacy_file_format = ON",
    ],
)  # fmt: skip
def test_setting_that_lies_in_the_file_changes_nothing(tmp_path: Path, pragma: str) -> None:
    plant_program(tmp_path, f"PRAGMA journal_mode = DELETE; PRAGMA {pragma}; VACUUM; ANALYZE")
    spool = Spool(str(tmp_path))
    assert spool.enqueue(event(2), HERE, timeout_seconds=5)
    assert check_ledger(spool)["accepted"] == 2
    assert spool._store.read(lambda queue: queue.connection.execute("PRAGMA journal_mode")
                             .fetchone()) == ("wal",)  # fmt: skip
    spool.finish()


@pytest.mark.parametrize(
    "name", ["../outside", "g-../outside", "/{}/outside", "g-a\0b", "g-a/../b"]
)
def test_name_of_a_generation_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    path, outside = tmp_path / "spool", tmp_path / "outside"
    shutil.copytree(make_closed(tmp_path / "other"), outside)
    before = {file: file.read_bytes() for file in outside.iterdir()}
    make_closed(path)
    (path / "current").write_text(name.format(tmp_path) + "\n")
    spool = Spool(str(path))
    assert spool.enqueue(event(3), HERE)
    spool.finish()
    assert {file: file.read_bytes() for file in outside.iterdir()} == before


def make_closed(path: Path) -> Path:
    """A spool of one event; returns its generation."""
    spool = Spool(str(path))
    assert spool.enqueue(event(1), HERE)
    spool.finish()
    return next(path.glob("g-*"))


@pytest.mark.parametrize(
    "header",
    [
        ("X-A", "1\r\nX-Evil: 1"),
        ("X-A: 1\r\nX-Evil", "1"),
        ("Content-Length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("X-Sentry-Auth", "Sentry sentry_key=other"),
        ("Host", "elsewhere"),
        ("", "aes-gcm:1:2"),
        ("X-A", "\0"),
    ],
)
def test_stored_header_that_no_client_could_store_is_not_sent(header: tuple[str, str]) -> None:
    good = ("Content-Type", "application/json")
    planted = Event(
        event_id="a" * 32, category="error", endpoint="store", headers=(good, header), body=b"{}"
    )
    sent = build_request(planted, HERE, NOW).headers
    assert [pair for pair in sent if pair != good and pair[0] != "X-Sentry-Auth"] == []
    assert [name for name, _ in sent].count("X-Sentry-Auth") == 1
    assert "other" not in str(sent)


# -- what must not be shown -----------------------------------------------------------------------

PROXY = "http://user:pr0xyw0rd@127.0.0.1:9"
SHOWN_NOWHERE = (KEY, SECRET, "pr0xyw0rd")


def values() -> Iterator[object]:
    to = destination(f"http://{KEY}:{SECRET}@127.0.0.1/1")
    yield to
    options = read_options({"proxy": PROXY, "encryption_key": bytes(32)}, {})
    yield options
    yield Options(proxy=PROXY)
    yield make_event("x", created_at=NOW)
    request = build_request(event(1), to, NOW)
    yield request
    yield Request(url="http://127.0.0.1", headers=(), body=SECRET.encode(), proxy=PROXY)


def test_values_show_no_credentials() -> None:
    for value in values():
        for word in (*SHOWN_NOWHERE, repr(bytes(32))):
            assert word not in repr(value), type(value)
            assert word not in f"{value}"


def test_server_that_echoes_everything_brings_nothing_into_log_or_tool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys, a terminal's escapes, and a newline that would look like another line of the log."""
    answer = f"{KEY} {SECRET}\r\n\x1b[2J\x1b]0;owned\x07\x9b31mERROR forged: line\u2028end"
    path = tmp_path / "spool"
    auth = {
        "X-Sentry-Auth": f"Sentry sentry_version=6, sentry_client=raven-python/6.10.0, "
        f"sentry_key={KEY}, sentry_secret={SECRET}"
    }
    with Ingest() as ingest, caplog.at_level(logging.DEBUG):
        ingest.answer_with(status(400, body=answer.encode()))
        transport = make_transport(path)
        title = b'{"event_id": "' + b"c" * 32 + b'", "message": "\\u001b[2Jtitle\\u009b31m"}'
        transport.send(f"{ingest.url}/api/1/store/", title, auth)
        transport.flush(20)
        transport.close(10)
    lines = [record.getMessage() for record in caplog.records if record.name == "raven.spool"]
    assert any("dead letter" in line for line in lines)
    tool = [
        run(*command, "--spool", path).stdout
        for command in (
            ("ls",), ("ls", "--json"), ("show", "1"), ("show", "1", "--json"),
            ("show", "1", "--body"), ("stats",), ("stats", "--json"), ("stats", "--prometheus"),
        )
    ]  # fmt: skip
    for shown in (*lines, *tool):
        assert not any(word in shown for word in SHOWN_NOWHERE)
        assert not any(c in shown for c in "\x1b\x9b\x07\r\u2028")
    assert not any("\n" in line for line in lines)


def test_traceback_of_a_bad_dsn_or_option_shows_no_credentials() -> None:
    for given in ({"proxy": 7}, {"encryption_key": "hunter2" * 4}):
        try:
            read_options(given, {}, strict=True)
        except ValueError as error:
            text = "".join(traceback.format_exception(error))
            assert "hunter2" not in text
    from raven_spool.protocol import parse_dsn

    for dsn in (f"https://{KEY}:{SECRET}@[bad/1", f"{KEY}:{SECRET}@host/1", f"https://{KEY}@/1"):
        with pytest.raises(ConfigurationError) as caught:
            parse_dsn(dsn)
        error: BaseException | None = caught.value
        while error is not None:
            assert not any(word in str(error) for word in SHOWN_NOWHERE)
            error = error.__cause__ or error.__context__


# -- what a file can make its reader do -----------------------------------------------------------


def test_nothing_read_from_a_spool_is_unpickled_evaluated_or_imported() -> None:
    import raven_spool

    rooms = Path(raven_spool.__file__).parent
    for room in ("spool", "drain", "protocol", "senders"):
        for source in (rooms / room).rglob("*.py"):
            words = source.read_text()
            for word in ("pickle.load", "import pickle", "marshal", "eval(", "exec(", "shelve"):
                assert word not in words, (source, word)


def test_planted_sender_is_never_imported(tmp_path: Path) -> None:
    path, proof = tmp_path / "spool", tmp_path / "proof"
    (tmp_path / "planted.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    spool = Spool(str(path))
    to = Destination(
        base_url="http://127.0.0.1:9", project="1", public_key="k", sender="planted:Evil"
    )
    assert spool.enqueue(event(1, created_at=time.time()), to)
    spool.finish()
    ran = run("flush", "--spool", path, PYTHONPATH=str(tmp_path))
    assert ran.returncode == 75
    assert "planted:Evil" in ran.stderr
    assert not proof.exists()
