"""Keys, secrets and passwords, looked for wherever they could be shown, when all goes wrong."""

import contextlib
import gc
import logging
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import raven

import raven_spool
from raven_spool.errors import ConfigurationError
from raven_spool.model import Request
from raven_spool.protocol import parse_dsn
from raven_spool.senders.hiding import without_keys
from tests.faults.events import make_transport
from tests.support import evidence, tool
from tests.support.answers import drop, garbage, html, silence, status
from tests.support.blocking import SENDERS, open_sender
from tests.support.ingest import Ingest

# Not Sentry's: those look like ids, and are hidden as such wherever they stand.
KEY, SECRET, LOGIN = "MarkerOfTheKey", "MarkerOfTheSecret", "MarkerOfTheLogin"
MARKERS = (KEY, SECRET, LOGIN)
DEAD = "http://127.0.0.1:9"


def check(text: str, where: object) -> None:
    for marker in MARKERS:
        assert marker not in text, (where, text[max(0, text.index(marker) - 300) :][:600])


def check_logs(caplog: pytest.LogCaptureFixture) -> None:
    """All that any library said, with the tracebacks as a handler writes them."""
    formatter = logging.Formatter()
    for record in caplog.records:
        check(formatter.format(record), record.name)


def check_objects() -> int:
    """How each living object of ours shows itself."""
    found = [one for one in gc.get_objects() if is_ours(type(one))]
    for one in found:
        with contextlib.suppress(AttributeError):  # one whose constructor has raised
            check(repr(one) + str(one), type(one))
    return len(found)


def is_ours(kind: type) -> bool:
    return str(getattr(kind, "__module__", "")).startswith("raven_spool")


class Raises:
    """A transport of a user's, whose words have all that it was given in them."""

    def send(self, url: str, data: bytes, headers: dict[str, str]) -> None:
        raise RuntimeError(f"{url} {headers}")


class RaisesLater:
    is_async = True
    send = None

    def async_send(self, url, data, headers, success_cb, failure_cb):  # type: ignore[no-untyped-def]
        failure_cb(RuntimeError(f"{url} {headers}"))


def fail_at(event: object, reason: str) -> None:
    raise RuntimeError(f"{event!r} {reason}")


def capture(dsn: str, path: Path, **options: object) -> None:
    transport = make_transport(path, wait=lambda state: 0.2, **options)
    client = raven.Client(dsn, transport=transport, install_sys_hook=False)
    try:
        raise KeyError("the application's own")
    except KeyError:
        client.captureException()
    transport.flush(0.3)
    transport.stats()
    check(f"{transport!r} {transport.options!r} {transport.stats()!r}", "transport")
    check_objects()
    transport.close(0.1)


def spoil(path: Path) -> None:
    for file in path.glob("g-*/data.db*"):
        file.write_bytes(b"garbage" * 1000)


@pytest.mark.evidence
def test_nothing_that_goes_wrong_shows_a_credential(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.handler.setLevel(logging.DEBUG)
    echo = f"{KEY} {SECRET} http://{LOGIN}:{LOGIN}@127.0.0.1/".encode()
    answers = [status(code, body=echo) for code in (400, 401, 413, 500)]
    answers += [status(302, (("Location", f"http://{KEY}:{SECRET}@elsewhere.invalid/"),))]
    answers += [drop(), garbage(), html(), silence()]
    proxy = f"http://{LOGIN}:{LOGIN}@127.0.0.1:9"
    cases = 0
    with Ingest() as ingest:
        dsn = ingest.dsn(KEY, SECRET)
        for number, answer in enumerate(answers):
            ingest.answer_with(answer)
            capture(dsn, tmp_path / f"answer-{number}", timeout=0.3)
            cases += 1
        for number, options in enumerate(
            (
                {"sender": Raises()},
                {"sender": RaisesLater()},
                {"proxy": proxy},
                {"proxy": f"socks5://{LOGIN}:{LOGIN}@127.0.0.1:9"},
                {"ca_certs": str(tmp_path / "none")},
                {"on_dead": fail_at},
                {"backend": "inline"},
                {"backend": "requests"},
                {"encryption_key": "ab" * 32},
            )
        ):
            ingest.answer_with(status(400, body=echo))
            capture(dsn, tmp_path / f"option-{number}", **options)
            cases += 1
        for number, spoilt in enumerate((Path("/dev/null/spool"), tmp_path / "spoilt")):
            capture(dsn, spoilt, timeout=0.3)
            spoil(spoilt)
            capture(dsn, spoilt, timeout=0.3)
            cases += number + 1
    check_logs(caplog)
    assert any(record.exc_info for record in caplog.records)
    assert any("dead letter" in record.getMessage() for record in caplog.records)
    check("".join(capfd.readouterr()), "output")
    check(" ".join(thread.name for thread in threading.enumerate()), "threads")
    check(Path("/proc/self/cmdline").read_text(), "command line")
    evidence.note(
        "markers as key, secret and proxy's login, looked for in logs, tracebacks, repr and output",
        promise=8, tried=f"{cases} ways to fail", events=cases, lost=0, seen="shown nowhere",
    )  # fmt: skip


class Broken:
    """Of ours, with a fault of its own."""

    def send(self, request: Request) -> None:
        raise TypeError(f"{request.headers} {request.proxy}")

    def close(self) -> None: ...


def test_sender_that_raises_is_told_without_what_it_was_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from raven_spool.drive import exchange

    auth = f"Sentry sentry_version=7, sentry_key={KEY}, sentry_secret={SECRET}"
    request = Request(
        url=DEAD,
        headers=(("X-Sentry-Auth", auth),),
        body=b"{}",
        proxy=f"http://{LOGIN}%21:{LOGIN}@127.0.0.1:9",
    )
    outcome = exchange(lambda name: Broken(), "broken", request)
    check_logs(caplog)
    check(str(outcome), "outcome")
    (record,) = caplog.records
    text = logging.Formatter().format(record)
    assert "TypeError: " in text  # still of use: what it was, and where
    assert "in send" in text
    other = without_keys(ValueError("plain"), replace(request, headers=(), proxy=None))
    assert str(other) == "ValueError: plain"


@pytest.mark.parametrize("name", SENDERS)
def test_sender_shows_no_credential_to_any_log(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    auth = f"Sentry sentry_version=7, sentry_key={KEY}, sentry_secret={SECRET}"
    login = f"{LOGIN}:{LOGIN}@"
    sender = open_sender(name)
    with Ingest() as ingest, Ingest(tls=True) as tls:
        good = Request(
            url=f"{ingest.url}/api/1/store/",
            headers=(("X-Sentry-Auth", auth),),
            body=b"{}",
            timeout_seconds=0.5,
        )
        host = ingest.url.removeprefix("http://")
        for request in (
            good,
            replace(good, url=f"{DEAD}/api/1/store/"),
            replace(good, url=f"{tls.url}/api/1/store/"),
            replace(good, proxy=f"http://{login}{host}"),
            replace(good, url="https://host.invalid/", proxy=f"http://{login}{host}"),
            replace(good, proxy=f"http://{login}127.0.0.1:9"),
            replace(good, proxy=f"socks5://{login}127.0.0.1:9"),
            replace(good, proxy=f"http://{login}127.0.0.1:port"),
            replace(good, headers=(("X-Sentry-Auth", auth + "\r\n"),)),
            replace(good, headers=(("X-Sentry-Auth", auth + "\u2603"),)),
        ):
            outcome = sender.send(request)
            check(str(getattr(outcome, "message", "")), request)
            check_objects()
        ingest.answer_with(silence())
        check(str(sender.send(good)), good)
    sender.end()
    check_logs(caplog)


# -- the tool -------------------------------------------------------------------------------------

COMMANDS = [
    *(("ls",), ("ls", "--json"), ("show", "1"), ("show", "1", "--json"), ("show", "1", "--body")),
    *(("stats",), ("stats", "--json"), ("stats", "--prometheus"), ("stats", "--max-age", "1s")),
    *(("flush", "--timeout", "1s"), ("flush", "--json", "--timeout", "1s"), ("retry", "--all")),
    *(("retry", "1"), ("rm", "1"), ("rm", "1", "--yes"), ("send", "-m", "x")),
]
DSN = f"http://{KEY}:{SECRET}@127.0.0.1:9/1"
BAD = [
    ("send", "-m", "x", "--dsn", f"http://{KEY}:{SECRET}@[bad/1"),
    ("send", "-m", "x", "--dsn", f"ftp://{KEY}:{SECRET}@127.0.0.1/1"),
    ("send", "-m", "x", "--dsn", f"{KEY}:{SECRET}@127.0.0.1/1"),
    ("send", "-m", "x", "--dsn", f"http://{KEY}:{SECRET}@127.0.0.1/"),
    ("send", "-m", "x", "--dsn", f"http://{KEY}:{SECRET}@127.0.0.1/1?proxy=7&fsync={'x'}"),
    ("send", "-m", "x", f"http://{KEY}:{SECRET}@127.0.0.1/1"),
    ("retry", "1", "--dsn", f"http://{KEY}:{SECRET}@127.0.0.1:port/1"),
    ("retry", f"http://{KEY}:{SECRET}@127.0.0.1/1"),
    ("show", f"http://{KEY}:{SECRET}@127.0.0.1/1"),
    ("flush", f"http://{KEY}:{SECRET}@127.0.0.1/1"),
    ("flush", "--sender", f"http://{KEY}:{SECRET}@127.0.0.1/1"),
    ("flush", "--timeout", f"http://{KEY}:{SECRET}@127.0.0.1/1"),
    (f"http://{KEY}:{SECRET}@127.0.0.1/1",),
]


def run(*args: str | Path, **env: str) -> None:
    process = tool.start(*args, SENTRY_DSN=DSN, RAVEN_SPOOL_LEVEL="debug", **env)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        line = Path(f"/proc/{process.pid}/cmdline").read_text()
        if not any(KEY in str(arg) for arg in args):  # the user's own doing
            check(line, args)
    ran = tool.finish(process)
    check(ran.stdout + ran.stderr, args)


def states(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    at = 1_700_000_000.0
    tool.fill(tmp_path / "full", DSN, "one", "two", created_at=at)
    yield tmp_path / "full", {}
    tool.fill(tmp_path / "broken", DSN, "one", created_at=at)
    spoil(tmp_path / "broken")
    yield tmp_path / "broken", {}
    tool.fill(tmp_path / "proxied", DSN, "one", created_at=at)
    yield tmp_path / "proxied", {"RAVEN_SPOOL_PROXY": f"{LOGIN}:{LOGIN}"}
    yield tmp_path / "proxied", {"HTTP_PROXY": f"http://{LOGIN}:{LOGIN}@127.0.0.1:port"}


def test_no_command_shows_a_credential(tmp_path: Path) -> None:
    path, env = next(states(tmp_path))
    for command in COMMANDS[::3]:
        run(*command, "--spool", path, **env)


@pytest.mark.soak
def test_no_command_shows_a_credential_whatever_is_wrong(tmp_path: Path) -> None:
    for path, env in states(tmp_path):
        for command in COMMANDS:
            run(*command, "--spool", path, **env)


def test_no_complaint_of_the_tool_shows_a_credential(tmp_path: Path) -> None:
    tool.fill(tmp_path / "spool", DSN, "one", created_at=1_700_000_000.0)
    for command in BAD:
        run(*command, *(() if len(command) == 1 else ("--spool", tmp_path / "spool")))


def test_dsn_that_cannot_be_used_is_told_without_its_parts() -> None:
    for bad in (arg for command in BAD for arg in command if KEY in arg):
        try:
            check(repr(parse_dsn(bad)), "parsed")
        except ConfigurationError as error:
            check("".join(traceback.format_exception(error)), bad.replace(KEY, "key"))


def test_no_program_is_started() -> None:
    """So no command line and no environment of a child can show anything."""
    for source in Path(raven_spool.__file__).parent.rglob("*.py"):
        text = source.read_text()
        for word in ("subprocess", "os.exec", "os.spawn", "os.posix_spawn", "os.system", "Popen"):
            assert word not in text, source
