"""raven-spool show, retry and rm: one event, or a few, in an operator's hands."""

import base64
import contextlib
import gzip
import json
import os
import pty
import sqlite3
import subprocess
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import raven
from click.testing import CliRunner, Result

from raven_spool import SpoolTransport
from raven_spool.cli import finding, rm
from raven_spool.cli.app import tool
from raven_spool.model import State
from raven_spool.protocol import prepare
from raven_spool.spool import Spool
from tests.support.answers import Gate, held, ok, status
from tests.support.ingest import Ingest
from tests.support.tool import KEY, SECRET, TOOL, destination, environment, fill, make_event, run
from tests.support.waiting import wait_until

DSN = f"http://{KEY}:{SECRET}@127.0.0.1:9/7"
NEW_KEY = "beefcafe" * 4


def invoke(path: Path, *args: str | Path, answer: str = "") -> Result:
    """In this process, and no key in what it prints."""
    words = [str(arg) for arg in args]
    result = CliRunner().invoke(tool, [*words, "--spool", str(path)], input=answer)
    for key in (KEY, SECRET, NEW_KEY):
        assert key not in result.output
    assert "unexpected error" not in result.output
    return result


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Spool]:
    spool = Spool(str(path))
    yield spool
    spool.finish()


def bury(path: Path, *ids: int, reason: str = "HTTP 400: no") -> None:
    with opened(path) as spool:
        spool.bury(ids, reason, time.time())


def count(path: Path) -> dict:
    with opened(path) as spool:
        return spool.stats()


def states(path: Path) -> dict[int, str]:
    with opened(path) as spool:
        return {key.id: key.state.value for key in spool.list_keys()}


def database(path: Path) -> Path:
    return path / (path / "current").read_text().strip() / "data.db"


def execute(path: Path, sql: str) -> list[tuple]:
    connection = sqlite3.connect(database(path))
    with connection:
        rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


def check_lanes(path: Path) -> None:
    """accepted = ready + dead + delivered + dropped, in each lane."""
    rows = execute(
        path,
        "SELECT accepted, ready + dead + delivered + (SELECT TOTAL(events) FROM drops "
        "WHERE lane = lanes.id), MIN(accepted, ready, dead, bytes) FROM lanes",
    )
    assert all(accepted == kept and least >= 0 for accepted, kept, least in rows), rows


def spool_raw(
    path: Path, body: bytes, *, encoding: str = "", endpoint: str = "store", dsn: str = DSN
) -> str:
    """An event as a client posts it; returns its id."""
    headers = (("Content-Encoding", encoding),) if encoding else ()
    event = prepare(
        body,
        headers,
        endpoint=endpoint,
        created_at=time.time(),
        new_id=lambda: uuid.uuid4().hex,
    )
    with opened(path) as spool:
        assert spool.enqueue(event, destination(dsn), timeout_seconds=5)
    return event.event_id


@contextlib.contextmanager
def application(path: Path, dsn: str) -> Iterator[SpoolTransport]:
    """A program with a flusher of its own, that has captured an event."""
    transport = SpoolTransport(spool_path=str(path), concurrency=1)
    client = raven.Client(dsn, transport=transport, install_sys_hook=False)
    client.captureMessage("from an application")
    try:
        yield client.remote.get_transport()
    finally:
        client.remote.get_transport().close(1)


def read_terminal(*args: str | Path) -> str:
    ours, theirs = pty.openpty()
    command = [TOOL, *map(str, args)]
    with subprocess.Popen(command, env=environment(), stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # Linux' way to say that the other side is closed
            while chunk := os.read(ours, 65536):
                seen += chunk
    os.close(ours)
    assert process.returncode == 0, seen
    return seen.decode()


# -- finding --------------------------------------------------------------------------------------


def test_an_event_is_found_by_number_and_event_id(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_PAGE_EVENTS", 2)
    ids = fill(path, DSN, *"abcde", created_at=time.time())
    wanted = ids[3]
    for name in ("4", wanted, str(uuid.UUID(wanted)).upper(), wanted[:12]):
        shown = invoke(path, "show", name, "--json")
        assert shown.exit_code == 0, shown.output
        row = json.loads(shown.stdout)
        assert (row["id"], row["event_id"], row["title"]) == (4, wanted, "d")


def test_a_number_is_not_taken_for_the_beginning_of_an_event_id(path: Path) -> None:
    body = {"event_id": "1" * 32, "message": "ones"}
    spool_raw(path, json.dumps(body).encode())
    assert invoke(path, "show", "1").exit_code == 0
    assert invoke(path, "show", "11").exit_code == 1
    assert invoke(path, "show", "1" * 8).exit_code == 0
    assert invoke(path, "show", "9" * 18).exit_code == 1
    assert invoke(path, "show", "9" * 19).exit_code == 1


def test_the_same_event_id_twice_is_told_by_numbers(path: Path) -> None:
    event_id = uuid.uuid4().hex
    for text in ("first", "second"):
        spool_raw(path, json.dumps({"event_id": event_id, "message": text}).encode())
    for command in (("show",), ("retry",), ("rm", "--yes")):
        refused = invoke(path, *command, event_id)
        assert refused.exit_code == 1
        assert "any of the events 1, 2: name one by its number" in refused.stderr
    assert states(path) == {1: "ready", 2: "ready"}


@pytest.mark.parametrize("command", [("show",), ("retry",), ("rm", "--yes")])
def test_an_absent_event_exits_1_and_is_named(path: Path, command: tuple[str, ...]) -> None:
    fill(path, DSN, "one", created_at=time.time())
    for name in ("2", "deadbeef", "deadbeef" * 4):
        refused = invoke(path, *command, name)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert f"no event {name} in {path}" in refused.stderr
        assert "raven-spool ls" in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ("show",),
        ("show", "1", "2"),
        ("show", "one"),
        ("show", "1-3"),
        ("show", "deadbee"),
        ("show", "1", "--json", "--body"),
        ("retry",),
        ("retry", "1", "--all"),
        ("retry", "nonsense"),
        ("retry", "--all", "--dsn"),
        ("rm",),
        ("rm", "--yes"),
        ("rm", "--yes", "1", "g" * 32),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_64(path: Path, args: tuple[str, ...]) -> None:
    fill(path, DSN, "one", created_at=time.time())
    refused = invoke(path, *args)
    assert (refused.exit_code, refused.stdout) == (64, "")
    assert refused.stderr.count("\n") == 1
    assert states(path) == {1: "ready"}


@pytest.mark.parametrize("command", [("show", "1"), ("retry", "--all"), ("rm", "1", "--yes")])
def test_a_spool_that_cannot_be_used_is_told(path: Path, command: tuple[str, ...]) -> None:
    absent = invoke(path, *command)
    assert absent.exit_code == 66
    assert not path.exists()
    fill(path, DSN, "one", created_at=time.time())
    database(path).write_bytes(b"garbage" * 1000)
    assert invoke(path, *command).exit_code == 65


# -- show -----------------------------------------------------------------------------------------


def test_show_tells_each_attempt(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(status(503), status(400, body=b"\x1b[31mnonsense"))
    (event_id,) = fill(
        path, ingest.dsn(KEY, SECRET, project=5), "it broke", created_at=time.time() - 7300
    )
    for _ in range(2):
        run("flush", "--spool", path)
    shown = run("show", "1", "--spool", path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"{event_id}, number 1" in shown.stdout
    assert "it broke" in shown.stdout
    assert "(2 h ago)" in shown.stdout
    assert f"127.0.0.1:{ingest.port}, project 5" in shown.stdout
    assert "dead since" in shown.stdout
    assert "raven-spool retry 1" in shown.stdout
    assert "\x1b" not in shown.stdout
    first, second = shown.stdout.split("attempts ")[1].splitlines()[1:3]
    assert "HTTP 503" in first
    assert "HTTP 400" in second
    row = json.loads(invoke(path, "show", "1", "--json").stdout)
    assert (row["state"], row["attempts"], row["damaged"]) == ("dead", 2, False)
    assert row["dead_at"] == pytest.approx(time.time(), abs=60)
    assert [one["outcome"][:8] for one in row["history"]] == ["HTTP 503", "HTTP 400"]


def test_show_tells_what_holds_an_event(path: Path) -> None:
    fill(path, DSN, "one", created_at=time.time())
    with opened(path) as spool:
        ((lane, _),) = [one for one in spool.all_lanes() if one[0].category]
        now = time.time()
        limits = {"seconds": 3600.0, "hold": "limited", "reason": "rate limited for 3600 s"}
        spool.hold(lane.destination_id, "error", now=now, **limits)
    shown = invoke(path, "show", "1").stdout
    assert "ready, held until" in shown
    assert "rate limited for 3600 s" in shown


def test_show_says_that_attempts_were_made_before_a_retry(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(status(400))
    fill(path, ingest.dsn(KEY, SECRET), "one", created_at=time.time())
    run("flush", "--spool", path)
    assert invoke(path, "retry", "1").exit_code == 0
    shown = invoke(path, "show", "1").stdout
    assert "0 since it was retried, 1 in all" in shown
    assert "HTTP 400" in shown


DOCUMENT = {"event_id": "ab" * 16, "message": "smørrebrød \x1b[31m", "extra": {"deep": [1, None]}}
TEXT = json.dumps(DOCUMENT).encode()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        pytest.param(TEXT, "", id="plain"),
        pytest.param(zlib.compress(TEXT), "deflate", id="zlib, raven's own"),
        pytest.param(gzip.compress(TEXT), "gzip", id="gzip"),
        pytest.param(base64.b64encode(zlib.compress(TEXT)), "", id="base64 of zlib"),
    ],
)
def test_body_is_the_event_s_json(path: Path, body: bytes, encoding: str) -> None:
    spool_raw(path, body, encoding=encoding)
    shown = invoke(path, "show", "1", "--body")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == TEXT.decode() + "\n"


@pytest.mark.parametrize(
    ("body", "encoding", "why"),
    [
        pytest.param(b"no json", "", "no JSON object", id="text"),
        pytest.param(b"[1]", "", "no JSON object", id="list"),
        pytest.param(b"\xff\xfe\x00", "", "no JSON object", id="bytes"),
        pytest.param(b"", "", "no JSON object", id="empty"),
        pytest.param(b'{"a":' * 100_000, "", "no JSON object", id="deep"),
        pytest.param(b"no gzip", "gzip", "broken compressed body", id="gzip"),
        pytest.param(gzip.compress(TEXT)[:-9], "gzip", "cut short", id="cut gzip"),
        pytest.param(base64.b64encode(b"no zlib"), "", "no JSON object", id="base64"),
        pytest.param(TEXT, "br", "unknown content encoding", id="brotli"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_an_error(
    path: Path, body: bytes, encoding: str, why: str
) -> None:
    spool_raw(path, body, encoding=encoding)
    refused = invoke(path, "show", "1", "--body")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "the body of event 1 cannot be shown" in refused.stderr
    assert why in refused.stderr
    assert invoke(path, "show", "1").exit_code == 0


def make_envelope(attachment: bytes) -> bytes:
    header = {"event_id": "cd" * 16, "dsn": DSN, "trace": {"public_key": KEY}}
    lines = [json.dumps(header).encode(), b'{"type":"event"}', TEXT]
    lines += [b'{"type":"attachment","length":%d}' % len(attachment), attachment]
    return b"\n".join(lines)


def test_body_of_an_envelope_is_an_object_an_item(path: Path) -> None:
    spool_raw(path, make_envelope(b"\x00\n\x1b"), endpoint="envelope")
    lines = invoke(path, "show", "1", "--body").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"type": "event", "payload": DOCUMENT},
        {"type": "attachment", "size_bytes": 3},
    ]


def test_a_body_that_is_no_envelope_is_an_error(path: Path) -> None:
    spool_raw(path, b"nothing", endpoint="envelope")
    refused = invoke(path, "show", "1", "--body")
    assert refused.exit_code == 1
    assert "no envelope" in refused.stderr


def test_body_on_a_terminal_is_spread_out_and_moves_nothing(path: Path) -> None:
    spool_raw(path, b'{"message":"a\\u001b[31m\\u009b2J\\u202eb \xc3\xa9","ok":[1]}')
    lines = read_terminal("show", "1", "--body", "--spool", path).split("\r\n")
    assert lines[0] == "{"
    assert '  "message": "a\\u001b[31m\\u009b2J\\u202eb é",' in lines
    assert json.loads("\n".join(lines))["message"] == "a\x1b[31m\x9b2J\u202eb é"


def test_body_hides_the_keys_of_its_own_destination(path: Path) -> None:
    spool_raw(path, json.dumps({"vars": {"dsn": DSN}, "message": "m"}).encode())
    shown = invoke(path, "show", "1", "--body")
    assert json.loads(shown.stdout)["vars"]["dsn"] == "http://[hidden]:[hidden]@127.0.0.1:9/7"


def test_show_says_that_an_event_is_damaged(path: Path) -> None:
    fill(path, DSN, "one", created_at=time.time())
    execute(path, "UPDATE ack_queue_events SET data = x'00', headers = '[['")
    shown = invoke(path, "show", "1")
    assert shown.exit_code == 0
    assert "its bytes on disk have changed; `raven-spool rm 1` removes it" in shown.stdout
    refused = invoke(path, "show", "1", "--body")
    assert (refused.exit_code, refused.stdout) == (65, "")
    assert "raven-spool rm 1" in refused.stderr


# -- retry ----------------------------------------------------------------------------------------


def test_retry_starts_anew_and_flush_delivers(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(status(400), ok())
    ids = fill(path, ingest.dsn(KEY, SECRET), "one", created_at=time.time())
    run("flush", "--spool", path)
    assert states(path) == {1: "dead"}
    retried = run("retry", ids[0], "--spool", path)
    assert (retried.returncode, retried.stderr) == (0, "")
    assert "1 event will be tried again" in retried.stdout
    assert "raven-spool flush" in retried.stdout
    with opened(path) as spool:
        stored = spool.get(1)
    assert (stored.state, stored.attempts, stored.dead_at) == (State.READY, 0, None)
    assert run("flush", "--spool", path).returncode == 0
    assert ingest.event_ids() == ids
    assert count(path)["delivered"] == 1


def test_retry_wakes_a_running_application(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(status(400), ok())
    with application(path, ingest.dsn(KEY, SECRET)) as transport:
        wait_until(lambda: transport.stats()["dead"] == 1)
        assert invoke(path, "retry", "1").exit_code == 0
        wait_until(lambda: transport.stats()["delivered"] == 1, timeout_seconds=5)
    assert len(ingest.event_ids()) == 1


def test_retry_does_the_rest_and_tells_what_is_missing(path: Path) -> None:
    fill(path, DSN, *"abc", created_at=time.time())
    bury(path, 1, 2)
    retried = invoke(path, "retry", "77", "1", "3", "88")
    assert retried.exit_code == 1
    assert "1 event will be tried again" in retried.stdout
    assert "1 event ready already" in retried.stdout
    assert [line.split(" in ")[0] for line in retried.stderr.splitlines()] == [
        "raven-spool: no event 77",
        "raven-spool: no event 88",
    ]
    assert states(path) == {1: "ready", 2: "dead", 3: "ready"}


def test_retry_all_goes_through_all_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_AT_ONCE", 2)
    fill(path, DSN, *"abcdefg", created_at=time.time())
    bury(path, 1, 2, 3, 5, 7)
    assert invoke(path, "retry", "--all").stdout.startswith("5 events will be tried again")
    assert set(states(path).values()) == {"ready"}
    assert invoke(path, "retry", "--all").stdout == "no dead letters\n"
    check_lanes(path)


def test_retry_of_an_event_older_than_max_age_tries_it_once(path: Path, ingest: Ingest) -> None:
    old = time.time() - 31 * 86400
    delivered, refused = fill(path, ingest.dsn(KEY, SECRET), "one", "two", created_at=old)
    bury(path, 1, 2)
    retried = invoke(path, "retry", "--all")
    assert retried.exit_code == 0
    assert "2 events older than max_age (30 d): tried once" in retried.stderr
    ingest.answer_by(lambda seen: status(503) if seen.event_id == refused else ok())
    run("flush", "--spool", path, "--concurrency", "1", "--timeout", "5")
    assert ingest.event_ids() == [delivered]
    assert states(path) == {2: "dead"}


def test_retry_elsewhere_delivers_there(path: Path, ingest: Ingest) -> None:
    """Dead or ready; with the client's name, which Relay repairs by; and each lane adds up."""
    old = replace(destination(ingest.dsn(KEY, SECRET)), client="raven-python/6.10.0")
    event_ids = fill(path, DSN, "dead", "stays", created_at=time.time())
    with opened(path) as spool:
        for key in (1, 2):
            assert spool.enqueue(spool.get(key).event, old, timeout_seconds=5)
        spool.bury([1, 3], "HTTP 413", time.time())
    with Ingest() as other:
        new = f"{other.dsn(NEW_KEY, None, project=42)}?timeout=9&spool_path={path}-of-another"
        moved = invoke(path, "retry", "1", "3", "4", "--dsn", new)
        assert (moved.exit_code, moved.stderr) == (0, "")
        assert f"3 events will be sent to 127.0.0.1:{other.port}, project 42" in moved.stdout
        check_lanes(path)
        assert (count(path)["ready"], count(path)["dead"]) == (4, 0)
        run("flush", "--spool", path)
        assert sorted(other.event_ids()) == sorted([event_ids[0], *event_ids])
        auths = [seen.headers["x-sentry-auth"] for seen in other.requests]
        assert {seen.path for seen in other.requests} == {"/api/42/store/"}
    assert all(f"sentry_key={NEW_KEY}" in auth and SECRET not in auth for auth in auths)
    assert sum("sentry_client=raven-python/6.10.0" in auth for auth in auths) == 2
    assert ingest.requests == []
    assert states(path) == {2: "ready"}
    assert count(path)["delivered"] == 3
    check_lanes(path)
    assert not Path(f"{path}-of-another").exists()


def test_retry_elsewhere_of_all_dead_letters_leaves_the_ready_ones(path: Path) -> None:
    fill(path, DSN, *"abc", created_at=time.time())
    bury(path, 1, 3)
    moved = invoke(path, "retry", "--all", "--dsn", f"http://{NEW_KEY}@127.0.0.1:9/8")
    assert "2 events will be sent to 127.0.0.1:9, project 8" in moved.stdout
    with opened(path) as spool:
        assert {one.id: one.destination.project for one in spool.page()} == {1: "8", 2: "7", 3: "8"}
        by_project = {to.project: lane.ready for lane, to in spool.all_lanes() if lane.category}
    assert by_project == {"7": 1, "8": 2}
    check_lanes(path)


def test_retry_elsewhere_mends_the_ledger_of_an_older_spool(path: Path) -> None:
    """Spools of the first days have no trigger for it."""
    fill(path, DSN, "one", created_at=time.time())
    execute(path, "DROP TRIGGER event_rerouted")
    bury(path, 1)
    assert invoke(path, "retry", "1", "--dsn", f"http://{NEW_KEY}@127.0.0.1:9/8").exit_code == 0
    check_lanes(path)
    assert invoke(path, "rm", "1", "--yes").exit_code == 0
    check_lanes(path)


@pytest.mark.parametrize(
    ("dsn", "names"),
    [
        ("", "scheme"),
        (f"{NEW_KEY}@host/1", "scheme"),
        ("https://host/1", "public key"),
        (f"https://{NEW_KEY}@host/", "project"),
        (f"https://{NEW_KEY}@host/1?timeout=abc", "timeout='abc'"),
        (f"https://{NEW_KEY}@host/1?nonsense=1", "nonsense"),
    ],
    ids=["empty", "no scheme", "no key", "no project", "bad option", "unknown option"],
)
def test_retry_with_a_bad_dsn_exits_78(path: Path, dsn: str, names: str) -> None:
    fill(path, DSN, "one", created_at=time.time())
    bury(path, 1)
    refused = invoke(path, "retry", "--all", "--dsn", dsn)
    assert (refused.exit_code, refused.stdout) == (78, "")
    assert names in refused.stderr
    assert states(path) == {1: "dead"}


# -- rm -------------------------------------------------------------------------------------------


def test_rm_removes_and_the_ledger_says_so(path: Path) -> None:
    ids = fill(path, DSN, *"abc", created_at=time.time())
    bury(path, 1)
    removed = run("rm", "--yes", "1", ids[1], "1", "77", "--spool", path)
    assert removed.returncode == 1
    assert removed.stdout == "2 events removed\n"
    assert "no event 77" in removed.stderr
    assert states(path) == {3: "ready"}
    counts = count(path)
    assert (counts["accepted"], counts["ready"], counts["dead"]) == (3, 1, 0)
    assert counts["dropped_by_reason"] == {"removed": 2}
    check_lanes(path)


def test_rm_asks(path: Path) -> None:
    fill(path, DSN, *(f"number {n}" for n in range(12)), created_at=time.time())
    for answer in ("", "\n", "n\n", "what\n"):
        refused = invoke(path, "rm", "1", answer=answer)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "nothing was removed (--yes" in refused.stderr
    assert len(states(path)) == 12
    assert invoke(path, "rm", "1", answer="y\n").exit_code == 0
    asked = invoke(path, "rm", *map(str, range(2, 13)), answer="YES\n")
    assert asked.exit_code == 0
    assert "number 1\n" in asked.stderr
    assert "and 1 more" in asked.stderr
    assert "remove 11 events, never to be delivered? [y/N]" in asked.stderr
    assert asked.stdout == "11 events removed\n"
    assert states(path) == {}


def test_rm_of_many_goes_in_batches(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_AT_ONCE", 2)
    fill(path, DSN, *"abcdefg", created_at=time.time())
    removed = invoke(path, "rm", "-y", *map(str, range(1, 8)))
    assert (removed.exit_code, removed.stdout) == (0, "7 events removed\n")
    assert count(path)["dropped_by_reason"] == {"removed": 7}


@pytest.mark.parametrize("size_bytes", [2_000, 100_000, 500_000])
def test_a_full_spool_is_no_hindrance(
    path: Path, size_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is when people remove; and a row that changes is written anew, large as it is."""
    there = destination(DSN)
    spool = Spool(str(path), max_bytes=1 << 20, overflow="drop_newest")
    for body in (os.urandom(size_bytes), b"{}" * 100):  # then what little is left
        made = replace(make_event("x", created_at=time.time()), body=body)
        while spool.enqueue(made, there, timeout_seconds=5) > 0:
            pass
    spool.bury([1], "HTTP 400: " + "no" * 100, time.time())
    kept = spool.stats()["ready"]
    spool.finish()
    monkeypatch.setenv("RAVEN_SPOOL_MAX_BYTES", "1MiB")
    assert invoke(path, "retry", "1").exit_code == 0
    assert invoke(path, "rm", "1", "-y").exit_code == 0
    assert count(path)["ready"] == kept
    check_lanes(path)


def test_rm_of_what_went_while_it_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delivered in the meantime, or the number is another event's, in a file begun anew."""
    (event_id,) = fill(path, DSN, "one", created_at=time.time())

    def begin_anew(spool: Spool, keys: object) -> bool:
        with opened(path) as application:
            assert application.stats()["ready"] == 1
            assert application._store.quarantine(application._store.generation, 1.0)
        fill(path, DSN, "another", created_at=time.time())
        return True

    monkeypatch.setattr(rm, "_agreed", begin_anew)
    removed = invoke(path, "rm", event_id)
    assert removed.exit_code == 1
    assert "0 events removed" in removed.stdout
    assert "1 event went before that" in removed.stderr
    assert states(path) == {1: "ready"}


def test_rm_in_flight_and_a_2xx_counts_as_delivered(path: Path, ingest: Ingest) -> None:
    gate = Gate()
    ingest.answer_with(held(gate))
    with application(path, ingest.dsn(KEY, SECRET)) as transport:
        gate.wait_until_held()
        assert invoke(path, "rm", "1", "--yes").exit_code == 0
        assert transport.stats()["dropped_by_reason"] == {"removed": 1}
        gate.release()
        wait_until(lambda: transport.stats()["delivered"] == 1)
        stats = transport.stats()
    assert (stats["accepted"], stats["ready"], stats["dropped"]) == (1, 0, 0)
    check_lanes(path)


def test_rm_in_flight_and_a_refusal_stays_removed(path: Path, ingest: Ingest) -> None:
    gate = Gate()
    ingest.answer_with(held(gate, status(400)), ok())
    with application(path, ingest.dsn(KEY, SECRET)) as transport:
        gate.wait_until_held()
        assert invoke(path, "rm", "1", "--yes").exit_code == 0
        (behind,) = fill(path, ingest.dsn(KEY, SECRET), "behind it", created_at=time.time())
        gate.release()
        wait_until(lambda: ingest.event_ids() == [behind])  # so the refusal was taken in
        wait_until(lambda: transport.stats()["delivered"] == 1)
        stats = transport.stats()
    assert (stats["dead"], stats["dropped_by_reason"]) == (0, {"removed": 1})
    check_lanes(path)
