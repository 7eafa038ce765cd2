"""A raven transport of the user's own, spooled: `SpoolTransport(sender=...)`."""

import io
import textwrap
import threading
import urllib.error
import urllib.request

import pytest
import raven
import raven.transport
import requests
from raven.exceptions import APIError, RateLimited

from raven_spool import ConfigurationError, SpoolTransport, backends
from raven_spool.model import Failure, Fault, Request, Response
from raven_spool.senders.transport import TransportSender, make_transport
from raven_spool.transport import AsyncTransport, HTTPTransport, Transport
from tests.support import tool
from tests.support.answers import status, too_many

REQUEST = Request(
    url="http://sentry.invalid/api/1/store/",
    headers=(("X-Sentry-Auth", "Sentry sentry_key=k"),),
    body=b"{}",
    timeout_seconds=0.3,
)


class Recording(Transport):
    """Does what it is told, and remembers."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.seen = []

    def send(self, url, data, headers):
        self.seen.append((url, data, headers))
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Posting(Transport):
    """As people write them: no status is looked at."""

    def send(self, url, data, headers):
        return requests.post(url, data=data, headers=headers, timeout=5)


class Strict(Transport):
    def send(self, url, data, headers):
        requests.post(url, data=data, headers=headers, timeout=5).raise_for_status()


class Old:
    def __init__(self, parsed_url, flavour="plain"):
        self.url = parsed_url.geturl()

    def send(self, data, headers):
        return Posting().send(self.url, data, headers)


class Async(AsyncTransport):
    """Answers from a thread, as raven's do."""

    def __init__(self, error=None, *, answers=True):
        self.error, self.answers = error, answers

    def async_send(self, url, data, headers, success_cb, failure_cb):
        if self.answers:
            call = success_cb if self.error is None else lambda: failure_cb(self.error)
            threading.Thread(target=call).start()


@pytest.fixture
def make_client(ingest, path):
    def make(sender, **options):
        transport = SpoolTransport(spool_path=str(path), sender=sender, **options)
        return raven.Client(ingest.dsn(), transport=transport, install_sys_hook=False)

    return make


# -- what it says, as an outcome ------------------------------------------------------------------


def http_error(code):
    headers = {"Retry-After": "7"}
    return urllib.error.HTTPError("http://x", code, "no", headers, io.BytesIO())


def answer(code):
    made = requests.Response()
    made.status_code = code
    made.headers["X-Sentry-Error"] = "no"
    return made


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (None, 200),
        ("ok", 200),
        (answer(200), 200),
        (answer(500), 500),
        (requests.HTTPError(response=answer(400)), 400),
        (http_error(429), 429),
        (APIError("no", 403), 403),
        (RateLimited("slow", 30), 429),
    ],
    ids=["none", "text", "200", "500", "requests", "urllib", "raven", "limited"],
)
def test_status_in_an_answer_or_an_exception_is_judged(outcome, expected):
    assert TransportSender(Recording(outcome)).send(REQUEST).status == expected


def test_headers_of_an_answer_count_too():
    assert TransportSender(Recording(http_error(429))).send(REQUEST).headers["retry-after"] == "7"
    limited = TransportSender(Recording(RateLimited("slow", 30))).send(REQUEST)
    assert limited.headers["retry-after"] == "30"
    refused = TransportSender(Recording(answer(400))).send(REQUEST)
    assert refused.headers["x-sentry-error"] == "no"


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ValueError("what\nnow"), Fault.GARBAGE),
        (requests.ConnectionError("refused"), Fault.GARBAGE),
        (TimeoutError("slow"), Fault.TIMEOUT),
        (APIError("no status"), Fault.GARBAGE),
    ],
    ids=["value", "requests", "timeout", "raven"],
)
def test_any_other_exception_is_a_failure(error, fault):
    outcome = TransportSender(Recording(error)).send(REQUEST)
    assert isinstance(outcome, Failure)
    assert (outcome.fault, outcome.maybe_delivered) == (fault, True)
    assert type(error).__name__ in outcome.message
    assert "\n" not in outcome.message


def test_keyboard_interrupt_is_not_caught():
    with pytest.raises(KeyboardInterrupt):
        TransportSender(Recording(KeyboardInterrupt())).send(REQUEST)


def test_asynchronous_transport_is_waited_for():
    assert TransportSender(Async()).send(REQUEST).status == 200
    failed = TransportSender(Async(ValueError("no"))).send(REQUEST)
    assert isinstance(failed, Failure)
    silent = TransportSender(Async(answers=False)).send(REQUEST)
    assert isinstance(silent, Failure)
    assert silent.fault is Fault.TIMEOUT


def test_transport_is_called_as_raven_calls_it():
    recording = Recording()
    TransportSender(recording).send(REQUEST)
    assert recording.seen == [(REQUEST.url, b"{}", {"X-Sentry-Auth": "Sentry sentry_key=k"})]


def test_transport_is_made_by_a_class_or_a_function(ingest):
    for made_by in (Recording, lambda: Recording()):
        outcome = TransportSender(make_transport(made_by)).send(REQUEST)
        assert isinstance(outcome, Response)


# -- spooled --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sender",
    [
        Posting(),
        Posting,
        Old,
        f"{__name__}:Posting",
        raven.transport.HTTPTransport(timeout=3),
        raven.transport.ThreadedHTTPTransport(timeout=3),
    ],
    ids=["instance", "class", "old", "name", "raven", "raven-threaded"],
)
def test_own_transport_delivers_what_was_spooled(ingest, make_client, sender):
    client = make_client(sender)
    event_id = client.captureMessage("by my own transport")
    assert client.remote.get_transport().flush(10)
    assert ingest.event_ids() == [event_id]


def test_exceptions_of_an_own_transport_are_retried(ingest, make_client):
    recording = Recording(ValueError("no"), RuntimeError("not yet"))
    client = make_client(recording, wait=lambda state: 0.01)
    client.captureMessage("third time lucky")
    assert client.remote.get_transport().flush(10)
    assert len(recording.seen) == 3
    assert client.remote.get_transport().stats()["delivered"] == 1


@pytest.mark.parametrize("cls", [Posting, Strict])
def test_own_transport_that_gets_an_answer_is_judged_by_it(ingest, make_client, cls):
    ingest.answer_with(status(400), too_many("60"))
    client = make_client(cls, concurrency=1)
    for text in ("bad", "limited"):
        client.captureMessage(text)
    transport = client.remote.get_transport()
    assert not transport.flush(1)
    assert (transport.stats()["dead"], transport.stats()["ready"]) == (1, 1)
    assert len(ingest.requests) == 2


def test_sender_that_cannot_be_imported_keeps_the_events(ingest, make_client, caplog):
    client = make_client("no_such_module:transport")
    client.captureMessage("stays")
    assert not client.remote.get_transport().flush(0.5)
    assert client.remote.get_transport().stats()["ready"] == 1
    assert "no_such_module" in caplog.text


@pytest.mark.parametrize(
    "sender", [object(), 5, HTTPTransport, SpoolTransport()], ids=["a", "b", "c", "d"]
)
def test_sender_that_is_none_is_refused(sender, path):
    with pytest.raises(ConfigurationError, match="sender"):
        SpoolTransport(spool_path=str(path), sender=sender)


def test_new_instances_of_a_class_are_one_sender(make_client):
    names = {backends.name_sender(Posting()) for _ in range(100)}
    assert names == {f"{__name__}:Posting"}
    assert len(backends._own_transports) == 1


# -- other programs -------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's, beside which the tool is run."""
    (tmp_path / "app_transport.py").write_text(
        textwrap.dedent(
            """
            import urllib.request

            class Mine:
                def send(self, url, data, headers):
                    headers = dict(headers, **{"User-Agent": "mine/1"})
                    urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=5)

            configured = Mine()
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    return "app_transport:configured"


def test_flush_leaves_events_of_a_sender_it_has_not(ingest, make_client, path):
    make_client(Posting, backend="none").captureMessage("for Posting")
    ran = tool.run("flush", "--spool", path)
    assert ran.returncode == 75
    assert f"{__name__}:Posting" in ran.stderr
    assert "--sender" in ran.stderr
    assert ingest.requests == []


def test_flush_sends_them_with_the_sender_that_it_is_given(ingest, make_client, path, module):
    event_id = make_client(Posting, backend="none").captureMessage("for Posting")
    ran = tool.run("flush", "--spool", path, "--sender", module)
    assert ran.returncode == 0, ran.stderr
    assert ingest.event_ids() == [event_id]
    assert ingest.requests[0].headers["user-agent"] == "mine/1"


def test_flush_finds_the_sender_of_the_environment(ingest, make_client, path, module):
    event_id = make_client(module, backend="none").captureMessage("named")
    ran = tool.run("flush", "--spool", path, RAVEN_SPOOL_SENDER=module, PYTHONPATH=str(path.parent))
    assert ran.returncode == 0, ran.stderr
    assert ingest.event_ids() == [event_id]


def test_send_uses_the_sender_of_the_environment(ingest, path, module):
    env = {"RAVEN_SPOOL_SENDER": module, "PYTHONPATH": str(path.parent)}
    dsn = ingest.dsn(tool.KEY, tool.SECRET)
    ran = tool.run("send", "--spool", path, "--dsn", dsn, "-m", "hello", **env)
    assert ran.returncode == 0, ran.stderr
    assert ingest.requests[0].headers["user-agent"] == "mine/1"


@pytest.mark.parametrize("name", ["no_such_module:x", "app_transport:nothing", "nonsense"])
def test_flush_refuses_a_sender_that_is_not_there(make_client, path, module, name):
    make_client(Posting, backend="none").captureMessage("for Posting")
    ran = tool.run("flush", "--spool", path, "--sender", name)
    assert ran.returncode == 78
    assert name in ran.stderr


def test_nothing_in_a_spool_is_imported(ingest, make_client, path, tmp_path, module):
    """A spool file must not make its reader run code: names in it are only compared."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    make_client("evil:transport", backend="none").captureMessage("planted")
    ran = tool.run("flush", "--spool", path, "--sender", module, PYTHONPATH=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    tool.run("ls", "--spool", path, PYTHONPATH=str(tmp_path))
    assert not (tmp_path / "ran").exists()
