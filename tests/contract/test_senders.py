"""What every sender must do, against a server that misbehaves in every way we know."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from raven_spool.model import MAX_ANSWER_BYTES, Failure, Fault, Outcome, Request, Response
from raven_spool.senders import Sender
from raven_spool.senders._common import MAX_CHANNELS
from tests.support import answers
from tests.support.answers import Answer, Gate
from tests.support.blocking import SENDERS, open_sender
from tests.support.ingest import Ingest
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

SECRET = "s3cr3t"
BODY = b'{"event_id":"0123456789abcdef0123456789abcdef"}'
LARGE = b"x" * (8 << 20)
SHORT_SECONDS = 0.25
BOUND_SECONDS = 3  # generous: the machine may be busy
ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


# Where a signal's exception and a daemon's closed descriptors meet our own code, not a loop's.
IN_THIS_THREAD = pytest.mark.parametrize("sender", ["urllib", "requests"], indirect=True)


@pytest.fixture(params=SENDERS)
def sender(request: pytest.FixtureRequest) -> Iterator[Sender]:
    made = open_sender(request.param)
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRONMENT, *map(str.lower, ENVIRONMENT)):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as made:
        yield made


@pytest.fixture(scope="module")
def tls_ingest() -> Iterator[Ingest]:
    with Ingest(tls=True) as made:
        yield made


def make_request(ingest: Ingest, **changes: object) -> Request:
    request = Request(
        url=f"{ingest.url}/prefix/api/1/store/?x=1",
        headers=(("User-Agent", "raven-python/6.10.0"), ("X-Sentry-Auth", f"Sentry {SECRET}")),
        body=BODY,
        timeout_seconds=20,
    )
    return replace(request, **changes)


def answered(outcome: Outcome) -> Response:
    assert isinstance(outcome, Response), outcome
    return outcome


def failed(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    assert outcome.message
    assert "\n" not in outcome.message
    assert SECRET not in outcome.message
    return outcome


def assert_failed(outcome: Outcome, fault: Fault, *, maybe_delivered: bool) -> None:
    failure = failed(outcome)
    assert (failure.fault, failure.maybe_delivered) == (fault, maybe_delivered), failure


@contextmanager
def taking_less_than(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


# The request and the answer


def test_sender_posts_the_body_and_headers_as_given(sender: Sender, ingest: Ingest) -> None:
    response = answered(sender.send(make_request(ingest)))
    (seen,) = ingest.requests
    assert (seen.method, seen.path) == ("POST", "/prefix/api/1/store/?x=1")
    assert seen.raw_body == BODY
    assert seen.headers["user-agent"] == "raven-python/6.10.0"
    assert seen.headers["x-sentry-auth"] == f"Sentry {SECRET}"
    assert seen.headers["host"] == ingest.url.removeprefix("http://")
    assert response.status == 200
    assert response.body == b'{"id": "0123456789abcdef0123456789abcdef"}'


def test_sender_keeps_framing_and_encoding_to_itself(sender: Sender, ingest: Ingest) -> None:
    headers = (("Content-Length", "3"), ("accept-encoding", "gzip"), ("Host", "elsewhere"))
    answered(sender.send(make_request(ingest, headers=headers)))
    (seen,) = ingest.requests
    assert seen.raw_body == BODY
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["host"] == ingest.url.removeprefix("http://")


@pytest.mark.parametrize("status", [204, 400, 401, 404, 413, 429, 500, 503])
def test_sender_returns_any_status(sender: Sender, ingest: Ingest, status: int) -> None:
    body = b"" if status == 204 else b"why"
    ingest.answer_with(answers.status(status, body=body))
    response = answered(sender.send(make_request(ingest)))
    assert (response.status, response.body) == (status, body)


def test_sender_joins_repeated_headers_under_lower_case_names(
    sender: Sender, ingest: Ingest
) -> None:
    pairs = (("X-Sentry-Rate-Limits", "60:error"), ("x-sentry-rate-limits", "5.5:session"))
    ingest.answer_with(answers.ok(pairs))
    response = answered(sender.send(make_request(ingest)))
    assert response.headers["x-sentry-rate-limits"] == "60:error, 5.5:session"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_sender_follows_no_redirect(sender: Sender, ingest: Ingest, status: int) -> None:
    ingest.answer_with(answers.redirect(f"{ingest.url}/login", status))
    response = answered(sender.send(make_request(ingest)))
    assert (response.status, response.headers["location"]) == (status, f"{ingest.url}/login")
    assert len(ingest.requests) == 1


@pytest.mark.parametrize("status", [200, 302])
def test_sender_reads_a_bounded_answer_and_drops_the_rest(
    sender: Sender, ingest: Ingest, status: int
) -> None:
    large = answers.status(status, (("Location", "/elsewhere"),), b"x" * (4 << 20))
    ingest.answer_with(large, answers.ok())
    response = answered(sender.send(make_request(ingest)))
    assert response.body == b"x" * MAX_ANSWER_BYTES
    assert answered(sender.send(make_request(ingest))).status == 200
    assert ingest.connections == 2


def test_sender_keeps_the_connection_after_an_answer_of_just_the_limit(
    sender: Sender, ingest: Ingest
) -> None:
    ingest.answer_with(answers.status(200, body=b"x" * MAX_ANSWER_BYTES))
    for _ in range(2):
        assert len(answered(sender.send(make_request(ingest))).body) == MAX_ANSWER_BYTES
    assert ingest.connections == 1


def test_sender_takes_the_end_of_the_connection_for_that_of_an_answer_without_length(
    sender: Sender, ingest: Ingest
) -> None:
    ingest.answer_with(answers.until_close())
    for _ in range(2):
        assert answered(sender.send(make_request(ingest))).body == b'{"id":""}'
    assert ingest.connections == len(ingest.requests) == 2


def test_sender_unpacks_no_answer(sender: Sender, ingest: Ingest) -> None:
    ingest.answer_with(answers.status(200, (("Content-Encoding", "gzip"),), b"\x1f\x8b packed"))
    assert answered(sender.send(make_request(ingest))).body == b"\x1f\x8b packed"


def test_sender_returns_no_cookie(sender: Sender, ingest: Ingest) -> None:
    ingest.answer_with(answers.ok((("Set-Cookie", "a=b; Path=/"),)))
    for _ in range(2):
        answered(sender.send(make_request(ingest)))
    assert "cookie" not in ingest.requests[1].headers


def test_sender_takes_no_credentials_from_netrc(
    sender: Sender, ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    answered(sender.send(make_request(ingest)))
    assert "authorization" not in ingest.requests[0].headers


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": (("X-Sentry-Auth", f"Sentry {SECRET}\r\nInjected: yes"),)},
        {"headers": (("X-Sentry-Auth", f"{SECRET}\N{SNOWMAN}"),)},
        {"url": "ftp://127.0.0.1/api/1/store/"},
        {"url": "http://127.0.0.1:port/api/1/store/"},
        {"url": "http:///api/1/store/"},
    ],
)
def test_sender_reports_what_can_not_be_sent(
    sender: Sender, ingest: Ingest, changes: dict[str, object]
) -> None:
    outcome = sender.send(make_request(ingest, **changes))
    assert_failed(outcome, Fault.GARBAGE, maybe_delivered=False)
    assert answered(sender.send(make_request(ingest))).status == 200
    assert len(ingest.requests) == 1


# Kept connections


def test_sender_reuses_its_connection(sender: Sender, ingest: Ingest) -> None:
    for status in (200, 429, 503, 302, 200):
        ingest.answer_with(answers.status(status))
        assert answered(sender.send(make_request(ingest))).status == status
    assert [seen.connection for seen in ingest.requests] == [1] * 5


def test_sender_notices_that_an_idle_connection_was_closed(sender: Sender, ingest: Ingest) -> None:
    ingest.answer_with(answers.closing())
    for count in range(1, 4):
        assert answered(sender.send(make_request(ingest))).status == 200
        wait_until(lambda: ingest.live_connections == 0, what="the server's close")
        assert len(ingest.requests) == ingest.connections == count


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_sender_takes_what_came_unasked_for_no_answer(
    sender: Sender, ingest: Ingest, tls_ingest: Ingest, scheme: str
) -> None:
    """aiohttp kept it for the next request, which then counted as delivered whatever came of it."""
    chosen, arrived = tls_ingest if scheme == "https" else ingest, threading.Event()
    chosen.answer_with(answers.unasked(answers.ok(), arrived), answers.status(503))
    request = make_request(chosen, ca_certs=chosen.ca_file)
    assert answered(sender.send(request)).status == 200
    assert arrived.wait(10)
    assert answered(sender.send(request)).status == 503
    assert answered(sender.send(request)).status == 503


def test_sender_obeys_connection_close(sender: Sender, ingest: Ingest) -> None:
    ingest.answer_with(answers.ok((("Connection", "close"),)))
    for _ in range(3):
        assert answered(sender.send(make_request(ingest))).status == 200
    assert ingest.connections == 3


def test_sender_outlives_a_restart_of_the_server(sender: Sender, ingest: Ingest) -> None:
    answered(sender.send(make_request(ingest)))
    ingest.stop()
    outcome = sender.send(make_request(ingest))
    assert_failed(outcome, Fault.CONNECT, maybe_delivered=False)
    assert failed(outcome).message == f"Connection refused: 127.0.0.1 port {ingest.port}"
    ingest.start()
    assert answered(sender.send(make_request(ingest))).status == 200


def test_sender_bounds_its_connections_and_closes_them(sender: Sender, ingest: Ingest) -> None:
    # ca_certs is part of what tells connections apart, and without TLS it changes nothing else.
    requests = [make_request(ingest, ca_certs=f"/nowhere/{i}") for i in range(MAX_CHANNELS + 1)]
    newest, oldest = requests[-1], requests[0]
    for request in (*requests[:-1], oldest, newest, oldest):
        answered(sender.send(request))
    assert ingest.connections == MAX_CHANNELS + 1  # the oldest by use, not by age, had to go
    wait_until(lambda: ingest.live_connections == MAX_CHANNELS, what="the oldest to be closed")
    sender.close()
    wait_until(lambda: ingest.live_connections == 0, what="all to be closed")


def test_sender_may_be_closed_twice_and_used_again(sender: Sender, ingest: Ingest) -> None:
    answered(sender.send(make_request(ingest)))
    sender.close()
    sender.close()
    assert answered(sender.send(make_request(ingest))).status == 200
    assert ingest.connections == 2


@IN_THIS_THREAD
def test_sender_lets_an_interrupt_pass_and_starts_afresh(sender: Sender, ingest: Ingest) -> None:
    gate = Gate()
    ingest.answer_with(answers.held(gate), answers.ok())
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        gate.wait_until_held()
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sender.send(make_request(ingest))
    thread.join()
    gate.release()
    assert answered(sender.send(make_request(ingest))).status == 200
    assert ingest.connections == 2


# Faults


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (answers.reset(), Fault.RESET),
        (answers.drop(), Fault.RESET),
        (answers.half(), Fault.RESET),
        (answers.half_chunks(), Fault.RESET),
        (answers.half_headers(), Fault.RESET),
        (answers.garbage(), Fault.GARBAGE),
        (answers.endless_headers(), Fault.GARBAGE),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_sender_names_a_broken_answer(
    sender: Sender, ingest: Ingest, answer: Answer, fault: Fault
) -> None:
    answered(sender.send(make_request(ingest)))  # so that it happens on a kept connection
    ingest.answer_with(answer, answers.ok())
    assert_failed(sender.send(make_request(ingest)), fault, maybe_delivered=True)
    assert len(ingest.requests) == 2  # not sent again behind our back
    assert answered(sender.send(make_request(ingest))).status == 200


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [
        ("http", answers.silence()),
        ("http", answers.slow(30)),
        ("http", answers.trickle()),
        ("http", answers.trickle_body()),
        ("http", answers.endless_headers(0.05)),
        ("http", answers.wrong_length()),
        ("https", answers.silence()),
        ("https", answers.trickle()),
        ("https", answers.trickle_body()),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_sender_bounds_the_whole_exchange(
    sender: Sender, ingest: Ingest, tls_ingest: Ingest, scheme: str, answer: Answer
) -> None:
    chosen = tls_ingest if scheme == "https" else ingest
    chosen.answer_with(answers.ok(), answer)
    request = make_request(chosen, ca_certs=chosen.ca_file)
    answered(sender.send(request))  # the short time is for the answer, not for a busy machine's TLS
    with taking_less_than(BOUND_SECONDS):
        outcome = sender.send(replace(request, timeout_seconds=SHORT_SECONDS))
    assert_failed(outcome, Fault.TIMEOUT, maybe_delivered=True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_sender_bounds_the_sending(
    sender: Sender, ingest: Ingest, tls_ingest: Ingest, scheme: str
) -> None:
    chosen = tls_ingest if scheme == "https" else ingest
    chosen.answer_with(answers.ok(), answers.slow_reader())
    request = make_request(chosen, ca_certs=chosen.ca_file)
    answered(sender.send(request))
    with taking_less_than(BOUND_SECONDS):
        outcome = sender.send(replace(request, body=LARGE * 2, timeout_seconds=SHORT_SECONDS))
    assert_failed(outcome, Fault.TIMEOUT, maybe_delivered=False)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_sender_reads_the_answer_to_a_body_that_was_too_large(
    sender: Sender, ingest: Ingest, tls_ingest: Ingest, scheme: str
) -> None:
    chosen = tls_ingest if scheme == "https" else ingest
    chosen.answer_with(answers.early(413))
    for _ in range(5):
        outcome = sender.send(make_request(chosen, ca_certs=chosen.ca_file, body=LARGE))
        assert answered(outcome).status == 413


def test_sender_knows_that_a_cut_request_was_not_delivered(sender: Sender, ingest: Ingest) -> None:
    ingest.answer_with(replace(answers.drop(), reads_body=False))
    outcome = sender.send(make_request(ingest, body=LARGE))
    assert_failed(outcome, Fault.RESET, maybe_delivered=False)


@contextmanager
def deaf_server(*, accepts: bool) -> Iterator[str]:
    """Takes connections without a word, or (its backlog full) does not even take them."""
    with socket.create_server(("127.0.0.1", 0), backlog=8 if accepts else 0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(0 if accepts else 4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    ("accepts", "make"),
    [
        (False, lambda request, address: replace(request, url=f"http://{address}/")),
        (True, lambda request, address: replace(request, url=f"https://{address}/")),
        (True, lambda request, address: replace(request, proxy=f"http://{address}")),
    ],
    ids=["connect", "handshake", "tunnel"],
)
def test_sender_bounds_the_way_to_the_server(
    sender: Sender, tls_ingest: Ingest, accepts: bool, make: Callable[[Request, str], Request]
) -> None:
    with deaf_server(accepts=accepts) as address, taking_less_than(BOUND_SECONDS):
        request = make_request(tls_ingest, timeout_seconds=SHORT_SECONDS)
        outcome = sender.send(make(request, address))
    assert_failed(outcome, Fault.TIMEOUT, maybe_delivered=False)


# TLS


def test_sender_trusts_the_ca_of_the_request(sender: Sender, tls_ingest: Ingest) -> None:
    tls_ingest.answer_with(answers.ok())
    before = tls_ingest.connections
    for _ in range(3):
        outcome = sender.send(make_request(tls_ingest, ca_certs=tls_ingest.ca_file))
        assert answered(outcome).status == 200
    assert tls_ingest.connections == before + 1


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_sender_trusts_the_ca_of_the_environment(
    sender: Sender, tls_ingest: Ingest, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    tls_ingest.answer_with(answers.ok())
    monkeypatch.setenv(variable, tls_ingest.ca_file)
    assert answered(sender.send(make_request(tls_ingest))).status == 200


def test_sender_prefers_the_ca_of_the_request(
    sender: Sender, tls_ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls_ingest.answer_with(answers.ok())
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    outcome = sender.send(make_request(tls_ingest, ca_certs=tls_ingest.ca_file))
    assert answered(outcome).status == 200


def test_sender_refuses_an_unknown_ca(sender: Sender, tls_ingest: Ingest) -> None:
    outcome = sender.send(make_request(tls_ingest))
    assert_failed(outcome, Fault.TLS, maybe_delivered=False)
    assert "certificate" in failed(outcome).message


def test_sender_refuses_a_certificate_for_another_host(sender: Sender) -> None:
    with Ingest(tls=True, names=("other.example",)) as ingest:
        outcome = sender.send(make_request(ingest, ca_certs=ingest.ca_file))
        assert_failed(outcome, Fault.TLS, maybe_delivered=False)
        assert ingest.requests == []


def test_sender_accepts_any_certificate_if_told_to(sender: Sender) -> None:
    with Ingest(tls=True, names=("other.example",)) as ingest:
        # A warning would be an error here.
        assert answered(sender.send(make_request(ingest, verify_ssl=False))).status == 200
        assert_failed(sender.send(make_request(ingest)), Fault.TLS, maybe_delivered=False)


def test_sender_names_a_ca_file_that_is_not_there(sender: Sender, tls_ingest: Ingest) -> None:
    outcome = sender.send(make_request(tls_ingest, ca_certs="/nowhere/ca.pem"))
    assert_failed(outcome, Fault.TLS, maybe_delivered=False)
    assert "the CA certificates in /nowhere/ca.pem can't be used" in failed(outcome).message
    assert "('" not in failed(outcome).message


@contextmanager
def plain_server() -> Iterator[str]:
    """Greets one client in plain text, as a mail server does."""

    def greet(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, suppress(ConnectionResetError):
            sock.sendall(b"220 mail.example ESMTP\r\n")
            while sock.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=(listener,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def test_sender_names_a_server_without_tls(sender: Sender, ingest: Ingest) -> None:
    with plain_server() as address:
        outcome = sender.send(make_request(ingest, url=f"https://{address}/api/1/store/"))
        sender.close()
    assert_failed(outcome, Fault.TLS, maybe_delivered=False)


# Proxies


def test_sender_sends_plain_requests_through_the_proxy(sender: Sender, ingest: Ingest) -> None:
    with Proxy() as proxy:
        request = make_request(ingest, proxy=proxy.url)
        assert answered(sender.send(request)).status == 200
    assert [passed.target for passed in proxy.passed] == [request.url]
    assert ingest.requests[0].raw_body == BODY


def test_sender_tunnels_https_through_the_proxy(sender: Sender, tls_ingest: Ingest) -> None:
    tls_ingest.answer_with(answers.ok())
    with Proxy() as proxy:
        request = make_request(tls_ingest, ca_certs=tls_ingest.ca_file, proxy=proxy.url)
        for _ in range(2):
            assert answered(sender.send(request)).status == 200
    target = tls_ingest.url.removeprefix("https://")
    assert [(passed.method, passed.target) for passed in proxy.passed] == [("CONNECT", target)]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_sender_logs_in_to_the_proxy(
    sender: Sender, ingest: Ingest, tls_ingest: Ingest, scheme: str
) -> None:
    chosen = tls_ingest if scheme == "https" else ingest
    chosen.answer_with(answers.ok())
    request = make_request(chosen, ca_certs=chosen.ca_file)
    with Proxy(user="me@work", password=f"{SECRET}:/") as proxy:
        known = f"http://me%40work:{SECRET}%3A%2F@{proxy.address}"
        unknown = f"http://me:{SECRET}@{proxy.address}"
        assert answered(sender.send(replace(request, proxy=known))).status == 200
        outcome = sender.send(replace(request, proxy=unknown))
    assert_failed(outcome, Fault.CONNECT, maybe_delivered=False)
    assert "407" in failed(outcome).message
    assert "proxy-authorization" not in chosen.requests[-1].headers


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", f"http://me:{SECRET}@127.0.0.1:1", f"socks5://me:{SECRET}@h:1080"]
)
def test_sender_names_a_proxy_that_does_not_work(
    sender: Sender, ingest: Ingest, tls_ingest: Ingest, scheme: str, address: str
) -> None:
    chosen = tls_ingest if scheme == "https" else ingest
    outcome = sender.send(make_request(chosen, proxy=address))
    assert_failed(outcome, Fault.CONNECT, maybe_delivered=False)


@pytest.mark.parametrize(
    ("variable", "scheme"),
    [
        ("HTTP_PROXY", "http"),
        ("http_proxy", "http"),
        ("ALL_PROXY", "http"),
        ("HTTPS_PROXY", "https"),
        ("https_proxy", "https"),
        ("all_proxy", "https"),
    ],
)
def test_sender_takes_the_proxy_of_the_environment(
    sender: Sender,
    ingest: Ingest,
    tls_ingest: Ingest,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    scheme: str,
) -> None:
    chosen = tls_ingest if scheme == "https" else ingest
    chosen.answer_with(answers.ok())
    with Proxy() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        outcome = sender.send(make_request(chosen, ca_certs=chosen.ca_file))
    assert answered(outcome).status == 200
    assert len(proxy.passed) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("NO_PROXY", "*"), ("no_proxy", "example.com,127.0.0.1"), ("REQUEST_METHOD", "GET")],
)
def test_sender_goes_past_the_proxy_where_the_environment_says_so(
    sender: Sender, ingest: Ingest, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    # REQUEST_METHOD: under CGI, HTTP_PROXY is a header that a visitor sent (httpoxy).
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    assert answered(sender.send(make_request(ingest))).status == 200


def test_sender_prefers_the_proxy_of_the_request(
    sender: Sender, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "*")
    with Proxy() as proxy:
        assert answered(sender.send(make_request(ingest, proxy=proxy.url))).status == 200
    assert len(proxy.passed) == 1


def test_sender_takes_an_empty_proxy_for_none(
    sender: Sender, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert answered(sender.send(make_request(ingest, proxy=""))).status == 200


@IN_THIS_THREAD
@pytest.mark.parametrize("tls", [False, True])
def test_connection_that_was_closed_under_us_is_neither_used_nor_closed(
    sender: Sender, tls: bool
) -> None:
    """A daemon closes all descriptors there are, and opens its own under the same numbers."""
    with Ingest(tls=tls) as server:
        request = make_request(server, verify_ssl=False)
        answered(sender.send(request))
        (kept,) = connections_to(server)
        mine = os.open(os.devnull, os.O_RDONLY)
        os.dup2(mine, kept)  # the end of ours, and a file of the application's
        try:
            answered(sender.send(request))
            sender.close()
            assert os.path.samestat(os.fstat(kept), os.fstat(mine))
        finally:
            os.close(kept)
            os.close(mine)


def _is_socket(descriptor: str) -> bool:
    with suppress(FileNotFoundError):
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    return False


def connections_to(server: Ingest) -> list[int]:
    """This process's descriptors of connections to a server, without the server's own."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        if not _is_socket(name):
            continue  # its copy would stay open
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as copy:
            if copy.getpeername()[1] == urlsplit(server.url).port:
                found.append(int(name))
    return found
