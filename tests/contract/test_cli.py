"""raven-spool as an operator meets it: what it prints, and the code it exits with."""

import json
import os
import pty
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from raven_spool.cli.app import tool
from raven_spool.model import State
from raven_spool.spool import Spool
from tests.support.answers import status, too_many
from tests.support.ingest import Ingest
from tests.support.tool import KEY, SECRET, TOOL, destination, environment, fill, make_event, run

DSN = f"http://{KEY}:{SECRET}@127.0.0.1:9/7"
LS_KEYS = (
    *("id", "event_id", "state", "created_at", "attempts", "next_attempt_at", "size_bytes"),
    *("category", "level", "title", "project", "host", "error"),
)
NOBODY = 65534


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users can enter."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def list_events(path: Path, *args: str) -> list[dict]:
    listed = run("ls", "--spool", path, "--json", *args)
    assert (listed.returncode, listed.stderr) == (0, "")
    return [json.loads(line) for line in listed.stdout.splitlines()]


def database(path: Path) -> Path:
    return path / (path / "current").read_text().strip() / "data.db"


def bury_all(path: Path, reason: str) -> None:
    spool = Spool(str(path))
    spool.bury([stored.id for stored in spool.page()], reason, time.time())
    spool.finish()


def invoke(*args: str | Path, **env: str | None) -> str:
    """In this process, where an exit code is all that matters."""
    result = CliRunner().invoke(tool, [str(arg) for arg in args], env=env)
    return f"{result.exit_code} {result.output}"


# -- ls -------------------------------------------------------------------------------------------


def test_ls_json_has_these_keys_newest_last(path: Path) -> None:
    now = time.time()
    ids = fill(path, DSN, "one", "two", "three", created_at=now - 60)
    rows = list_events(path)
    assert [row["event_id"] for row in rows] == ids
    assert [row["title"] for row in rows] == ["one", "two", "three"]
    first = rows[0]
    assert tuple(first) == LS_KEYS
    assert (first["id"], first["state"], first["attempts"]) == (1, "ready", 0)
    assert first["created_at"] == pytest.approx(now - 60)
    assert (first["level"], first["category"], first["error"]) == ("error", "error", None)
    assert (first["host"], first["project"]) == ("127.0.0.1:9", "7")
    assert first["size_bytes"] > 50


def test_ls_filters(path: Path) -> None:
    now = time.time()
    fill(path, DSN, "old", created_at=now - 7200)
    bury_all(path, "HTTP 400")
    fill(path, DSN, "info", created_at=now, level="info")
    fill(path, DSN.replace("/7", "/8"), "other", created_at=now)

    def titles(*args: str) -> list[str]:
        return [row["title"] for row in list_events(path, *args)]

    assert titles("--state", "dead") == ["old"]
    assert titles("--state", "ready") == ["info", "other"]
    assert titles("--level", "info") == ["info"]
    assert titles("--project", "8") == ["other"]
    assert titles("--since", "1h") == ["info", "other"]
    assert titles("--limit", "2") == ["info", "other"]
    assert titles("--limit", "1", "--level", "error") == ["other"]
    (dead,) = list_events(path, "--state", "dead")
    assert (dead["error"], dead["next_attempt_at"]) == ("HTTP 400", None)


def test_ls_reads_more_than_a_page(path: Path) -> None:
    ids = fill(path, DSN, *map(str, range(120)), created_at=time.time())
    assert [row["event_id"] for row in list_events(path)] == ids
    assert [row["event_id"] for row in list_events(path, "--limit", "70")] == ids[50:]
    lines = run("ls", "--spool", path).stdout.splitlines()
    assert len(lines) == 121
    assert lines[0].split()[:3] == ["ID", "STATE", "AGE"]


def read_terminal(*args: str | Path) -> str:
    """What a person sees: the command on a terminal of its own."""
    ours, theirs = pty.openpty()
    command = [TOOL, *map(str, args)]
    env = environment(TERM="xterm", COLUMNS="120")
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:  # Linux' way to say that the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0, seen
    return seen.decode()


def test_ls_on_a_terminal_is_a_table_of_the_newest_50(path: Path) -> None:
    fill(path, DSN, *(f"event-{n}-[bold]" for n in range(60)), created_at=time.time() - 200)
    seen = read_terminal("ls", "--spool", path)
    assert "event-9-" not in seen
    assert "event-10-[bold]" in seen
    assert "event-59-[bold]" in seen
    assert "3 min" in seen
    assert "10 more" in seen


def test_flush_on_a_terminal_ends_with_its_summary(path: Path, ingest: Ingest) -> None:
    fill(path, ingest.dsn(KEY, SECRET), *"abc", created_at=time.time())
    assert "3 delivered, 0 dead, 0 remaining" in read_terminal("flush", "--spool", path)


def test_ls_moves_no_terminal(path: Path) -> None:
    fill(path, DSN, "a\x1b[31mred\x07", created_at=time.time())
    bury_all(path, "bad\x1b[2Jnews\nhere")
    (row,) = list_events(path)
    assert (row["title"], row["error"]) == ("ared", "bad[2Jnews here")
    assert "\x1b" not in run("ls", "--spool", path).stdout


def test_ls_shows_a_damaged_event(path: Path) -> None:
    fill(path, DSN, "whole", created_at=time.time())
    with sqlite3.connect(database(path)) as connection:
        (table,) = connection.execute("SELECT tbl_name FROM sqlite_master LIMIT 1").fetchone()
        connection.execute(f"UPDATE {table} SET headers = '[[', data = x'00'")
    connection.close()
    (row,) = list_events(path)
    assert row["title"] == "(undecodable body)"


def test_ls_into_a_closed_pipe_ends_quietly(path: Path) -> None:
    fill(path, DSN, *map(str, range(300)), created_at=time.time())
    process = subprocess.Popen(
        [TOOL, "ls", "--json", "--spool", str(path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(30) == 0


def test_ls_shows_what_holds_a_destination(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(status(401))
    fill(path, ingest.dsn(KEY, SECRET), "one", "two", created_at=time.time())
    run("flush", "--spool", path, "--concurrency", "1")
    assert [row["error"][:8] for row in list_events(path)] == ["HTTP 401"] * 2


# -- stats ----------------------------------------------------------------------------------------


def test_stats_json_adds_up(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(status(400), too_many("90"))
    now = time.time()
    fill(path, ingest.dsn(KEY, SECRET, project=5), *"abc", created_at=now - 60)
    run("flush", "--spool", path, "--concurrency", "1")
    figures = json.loads(run("stats", "--spool", path, "--json").stdout)
    assert figures["accepted"] == 3
    assert (figures["ready"], figures["dead"]) == (2, 1)
    assert (figures["delivered"], figures["dropped"]) == (0, 0)
    assert figures["bytes"] > 100
    assert figures["oldest_at"] == pytest.approx(now - 60)
    assert figures["leader"] is None
    (entry,) = figures["destinations"]
    assert (entry["host"], entry["project"]) == (f"127.0.0.1:{ingest.port}", "5")
    assert (entry["ready"], entry["dead"]) == (2, 1)
    (hold,) = entry["held"]
    assert hold["hold"] == "limited"
    assert now + 60 < hold["until"] < now + 120


def test_stats_for_people_and_prometheus(path: Path) -> None:
    fill(path, DSN, "one", created_at=time.time() - 7200)
    text = run("stats", "--spool", path).stdout
    assert "accepted   1 = ready + dead + delivered + dropped" in text
    assert "2 h ago" in text
    assert "127.0.0.1:9, project 7: 1 ready, 0 dead" in text
    metrics = run("stats", "--spool", path, "--prometheus").stdout.splitlines()
    assert "raven_spool_ready 1" in metrics
    assert "# TYPE raven_spool_accepted_total counter" in metrics
    assert 'raven_spool_destination_ready{host="127.0.0.1:9",project="7"} 1' in metrics
    assert "raven_spool_alarm 0" in metrics


def test_stats_max_age_is_a_check(path: Path) -> None:
    fill(path, DSN, "one", created_at=time.time() - 7200)
    fine = run("stats", "--spool", path, "--max-age", "3h")
    assert (fine.returncode, fine.stderr) == (0, "")

    late = run("stats", "--spool", path, "--max-age", "1h", "--json")
    assert late.returncode == 75
    (line,) = late.stderr.splitlines()
    assert "1 event ready, the oldest for 2 h: nobody delivers them" in line
    assert json.loads(late.stdout)["ready"] == 1

    run("flush", "--spool", path)
    (line,) = run("stats", "--spool", path, "--max-age", "1h").stderr.splitlines()
    assert "127.0.0.1:9, project 7: no answer" in line


def test_stats_shows_what_the_watchdog_told(path: Path) -> None:
    fill(path, DSN, "one", created_at=time.time() - 7200)
    spool = Spool(str(path), warn_age_seconds=3600.0)
    assert "oldest for 120 minutes" in spool.watchdog.look(time.time(), 1.0, at_once=True)
    spool.finish()

    assert "alarm      1 events wait, the oldest" in run("stats", "--spool", path).stdout
    figures = json.loads(run("stats", "--spool", path, "--json").stdout)
    assert figures["alarm"].startswith("1 events wait")
    assert "raven_spool_alarm 1" in run("stats", "--spool", path, "--prometheus").stdout


# -- send -----------------------------------------------------------------------------------------


def test_send_delivers_and_prints_the_id(path: Path, ingest: Ingest) -> None:
    args = ("send", "--spool", path, "-m", "hello", "--level", "info")
    sent = run(*args, SENTRY_DSN=ingest.dsn(KEY, SECRET))
    assert (sent.returncode, sent.stderr) == (0, "")
    assert ingest.event_ids() == [sent.stdout.strip()]
    document = json.loads(ingest.requests[0].body)
    assert (document["message"], document["level"]) == ("hello", "info")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_send_says_that_the_event_stays(path: Path) -> None:
    sent = run("send", "--spool", path, "-m", "hello", "--dsn", DSN)
    assert sent.returncode == 69
    assert "stays in the spool" in sent.stderr
    assert [row["event_id"] for row in list_events(path)] == [sent.stdout.strip()]


def test_send_keeps_to_the_limits_of_the_spool(path: Path) -> None:
    spool = Spool(str(path), max_events=1, overflow="drop_newest")
    assert spool.enqueue(make_event("x", created_at=time.time()), destination(DSN)) > 0
    spool.finish()
    sent = run("send", "--spool", path, "-m", "hello", "--dsn", DSN)
    assert sent.returncode == 73
    assert "overflow=drop_newest" in sent.stderr
    text = run("stats", "--spool", path).stdout
    assert "1 of 1 events; then drop_newest" in text
    assert "dropped    1 (1 overflow)" in text


def test_looking_changes_no_limits(path: Path) -> None:
    fill(path, DSN, "one", created_at=time.time())
    stats = run("stats", "--spool", path, "--json", RAVEN_SPOOL_MAX_EVENTS="5")
    assert json.loads(stats.stdout)["max_events"] == 0
    metrics = run("stats", "--spool", path, "--prometheus").stdout.splitlines()
    assert "raven_spool_max_events 0" in metrics


def test_send_limited_exits_75(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(too_many("60"))
    sent = run("send", "--spool", path, "-m", "hello", "--dsn", ingest.dsn(KEY, SECRET))
    assert sent.returncode == 75
    assert "limited until" in sent.stderr


def test_send_refused_for_good_says_why(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(status(400))
    sent = run("send", "--spool", path, "-m", "hello", "--dsn", ingest.dsn(KEY, SECRET))
    assert sent.returncode == 1
    assert "HTTP 400" in sent.stderr


@pytest.mark.parametrize(
    ("dsn", "names"),
    [
        (None, "--dsn or SENTRY_DSN"),
        ("", "--dsn or SENTRY_DSN"),
        (f"{KEY}:{SECRET}@host/1", "scheme"),
        (f"https://{KEY}:{SECRET}@/1", "host"),
        (f"https://{KEY}:{SECRET}@host/", "project"),
        ("https://host/1", "public key"),
        (f"https://{KEY}:{SECRET}@host:port/1", "port"),
        (f"https://{KEY}:{SECRET}@host/1?timeout=abc", "timeout='abc'"),
    ],
)
def test_send_with_a_bad_dsn_exits_78(path: Path, dsn: str | None, names: str) -> None:
    given = () if dsn is None else ("--dsn", dsn)
    sent = run("send", "--spool", path, "-m", "x", *given)
    assert sent.returncode == 78
    assert names in sent.stderr
    assert sent.stderr.count("\n") == 1
    assert not path.exists()


def test_send_takes_the_spool_of_the_dsn(path: Path, ingest: Ingest) -> None:
    dsn = f"{ingest.dsn(KEY, SECRET)}?spool_path={path}"
    assert run("send", "-m", "x", "--dsn", dsn).returncode == 0
    assert (path / "current").exists()


def test_send_below_a_file_cannot_create(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for spool in (tmp_path / "file", tmp_path / "file" / "spool"):
        sent = run("send", "--spool", spool, "-m", "x", "--dsn", DSN)
        assert sent.returncode == 73
        assert str(spool) in sent.stderr


def test_send_mends_a_broken_spool_and_says_so(path: Path, ingest: Ingest) -> None:
    fill(path, DSN, "one", created_at=time.time())
    database(path).write_bytes(b"garbage" * 1000)
    sent = run("send", "--spool", path, "-m", "x", "--dsn", ingest.dsn(KEY, SECRET))
    assert sent.returncode == 0
    assert "a fresh file was begun" in sent.stderr


# -- whose spool ----------------------------------------------------------------------------------

AS_NOBODY = f"""
import importlib, os, raven_spool.cli.app, raven_spool.cli.send, raven_spool.cli.ls
from raven_spool.cli.place import _LOADED_LATER
# What an unprivileged user may not be able to read in a developer's home.
for name in _LOADED_LATER:
    importlib.import_module(name)
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
raven_spool.cli.main()
"""


def run_unprivileged(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_NOBODY, *map(str, args)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)


def test_send_into_an_unwritable_directory_cannot_create(public: Path) -> None:
    public.chmod(0o555)
    sent = run_unprivileged("send", "--spool", public / "spool", "-m", "x", "--dsn", DSN)
    assert sent.returncode == 73
    assert f"cannot make the spool directory {public / 'spool'}" in sent.stderr
    assert "Traceback" not in sent.stderr


@pytest.mark.parametrize("command", [("ls",), ("stats",), ("flush",), ("send", "-m", "x")])
def test_a_forbidden_spool_is_not_permitted(public: Path, command: tuple[str, ...]) -> None:
    path = public / "spool"
    fill(path, DSN, "one", created_at=time.time())
    path.chmod(0o000)
    dsn = ("--dsn", DSN) if command[0] == "send" else ()
    refused = run_unprivileged(*command, *dsn, "--spool", path)
    path.chmod(0o700)
    assert refused.returncode == 77
    assert str(path) in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_root_takes_the_uid_of_the_directory(public: Path, ingest: Ingest) -> None:
    path = public / "spool"
    path.mkdir(0o700)
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()
    os.chown(path, owner, -1)
    sent = run("send", "--spool", path, "-m", "x", "--dsn", ingest.dsn(KEY, SECRET))
    assert sent.returncode == 0, sent.stderr
    files = [path, *path.rglob("*")]
    assert {file.stat().st_uid for file in files} == {owner}
    assert len(files) > 5


# -- errors ---------------------------------------------------------------------------------------

READERS = ("ls", "stats", "flush")


@pytest.mark.parametrize("command", READERS)
def test_an_absent_spool_exits_66_and_is_not_made(path: Path, command: str) -> None:
    refused = run(command, "--spool", path)
    assert (refused.returncode, refused.stdout) == (66, "")
    assert str(path) in refused.stderr
    assert not path.exists()
    path.mkdir()
    assert run(command, "--spool", path).returncode == 66
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("command", READERS)
def test_a_path_that_is_no_directory_exits_66(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    assert "66 " in invoke(command, "--spool", tmp_path / "file")
    assert "66 " in invoke(command, "--spool", tmp_path / "file" / "below")


@pytest.mark.parametrize("command", READERS)
def test_a_broken_file_exits_65_and_is_left_alone(path: Path, command: str) -> None:
    fill(path, DSN, "one", created_at=time.time())
    current = (path / "current").read_text()
    database(path).write_bytes(b"garbage" * 1000)
    refused = run(command, "--spool", path)
    assert refused.returncode == 65
    assert str(path) in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert (path / "current").read_text() == current
    assert database(path).read_bytes() == b"garbage" * 1000


@pytest.mark.parametrize("command", READERS)
def test_a_newer_schema_exits_65(path: Path, command: str) -> None:
    fill(path, DSN, "one", created_at=time.time())
    with sqlite3.connect(database(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    refused = run(command, "--spool", path)
    assert refused.returncode == 65
    assert "newer" in refused.stderr
    assert str(path) in refused.stderr


def test_another_program_s_database_exits_65(path: Path) -> None:
    fill(path, DSN, "one", created_at=time.time())
    database(path).unlink()
    with sqlite3.connect(database(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    refused = run("ls", "--spool", path)
    assert refused.returncode == 65
    assert str(path) in refused.stderr


def test_a_bad_environment_exits_78(path: Path) -> None:
    for command in READERS:
        refused = run(command, "--spool", path, RAVEN_SPOOL_TIMEOUT="abc")
        assert refused.returncode == 78
        assert "timeout='abc'" in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("nonsense",),
        ("ls", "--nonsense"),
        ("ls", "--limit", "0"),
        ("ls", "--since", "abc"),
        ("ls", "--level", "loud"),
        ("flush", "--timeout", "abc"),
        ("flush", "--concurrency", "0"),
        ("stats", "--json", "--prometheus"),
        ("send",),
        ("send", "-m", "x", DSN),
    ],
)
def test_wrong_usage_exits_64_in_one_line(args: tuple[str, ...]) -> None:
    refused = run(*args)
    assert refused.returncode == 64
    assert refused.stderr.startswith("raven-spool: ")
    assert refused.stderr.count("\n") == 1


def test_the_spool_is_found_by_option_then_environment(tmp_path: Path) -> None:
    fill(tmp_path / "a", DSN, "in a", created_at=time.time())
    fill(tmp_path / "b", DSN, "in b", created_at=time.time())
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert "in a" in invoke("ls", RAVEN_SPOOL_PATH=a)
    assert "in b" in invoke("ls", "--spool", b, RAVEN_SPOOL_PATH=a)
    (tmp_path / "raven-spool").symlink_to(tmp_path / "b")
    found = invoke("ls", STATE_DIRECTORY=str(tmp_path), RAVEN_SPOOL_PATH=None)
    assert "in b" in found


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith("raven-spool")
    assert "flush" in run("--help").stdout


def test_page_upwards_is_the_page_downwards_reversed(path: Path) -> None:
    spool = Spool(str(path))
    for number in range(5):
        event = make_event(str(number), created_at=time.time())
        assert spool.enqueue(event, destination(DSN), timeout_seconds=5)
    spool.bury([2], "why not", time.time())
    assert [one.id for one in spool.page(after_id=2, limit=2)] == [3, 4]
    assert [one.id for one in spool.page(before_id=4, limit=2)] == [3, 2]
    assert [one.id for one in spool.page(state=State.DEAD, after_id=0)] == [2]
    spool.finish()
