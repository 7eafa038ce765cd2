"""Addresses, auth headers and rate limits: what the small strings of the wire say."""

import contextlib
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raven.conf.remote import RemoteConfig
from raven.utils import get_auth_header

from raven_spool import protocol
from raven_spool.errors import ConfigurationError
from raven_spool.model import Destination, Limit, Response

KEY, SECRET = "ab" * 16, "cd" * 16
NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/api/42/store/", ("https://h", "42", "store")),
        ("http://h:1/pre/fix/api/42/envelope/", ("http://h:1/pre/fix", "42", "envelope")),
        ("https://h/api/1/api/42/store/", ("https://h/api/1", "42", "store")),
        ("HTTPS://H.Example/api/name/store", ("https://h.example", "name", "store")),
        ("https://[::1]:9000/api/42/store/", ("https://[::1]:9000", "42", "store")),
    ],
)
def test_endpoint_is_split(url, expected):
    assert protocol.parse_endpoint(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "https://h/",
        "https://h/api/42/",
        "https://h/api//store/",
        "https://h/api/42/minidump/",
        "https://h/api/42/store/?sentry_key=hunter2",
        "https://hunter2@h/api/42/store/",
        "https://:hunter2@h/api/42/store/",
        "https://h:hunter2/api/42/store/",
        "https://[hunter2/api/42/store/",
        "ftp://h/api/42/store/",
        "https:///api/42/store/",
        "https://h/a b/api/42/store/",
        "https://h/\u00fc/api/42/store/",
    ],
)
def test_endpoint_refused_is_not_echoed(url):
    with pytest.raises(ConfigurationError) as caught:
        protocol.parse_endpoint(url)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        f"https://{KEY}:{SECRET}@sentry.example/42",
        f"https://{KEY}@sentry.example:8443/pre/fix/42",
        f"threaded+requests+http://{KEY}:{SECRET}@H/1?timeout=3&spool_path=/a%20b&blank=",
        f"  https://{KEY}:@h/1 ",
        f"https://{KEY}:a:b%40c@h//1",
    ],
)
def test_dsn_is_split_as_raven_splits_it(dsn):
    with warnings.catch_warnings(action="ignore"):
        theirs = RemoteConfig.from_string(dsn, transport=object)
    ours = protocol.parse_dsn(dsn)
    assert (ours.base_url, ours.project) == (theirs.base_url, theirs.project)
    assert (ours.public_key, ours.secret_key) == (theirs.public_key, theirs.secret_key or None)
    assert ours.options == theirs.options


def test_dsn_keeps_the_brackets_of_an_ipv6_host():
    assert protocol.parse_dsn(f"https://{KEY}@[::1]:9000/1").base_url == "https://[::1]:9000"


@pytest.mark.parametrize(
    ("dsn", "missing"),
    [
        ("", "scheme"),
        (f"{KEY}:{SECRET}@h/1", "scheme"),
        (f"//{KEY}@h/1", "scheme"),
        (f"udp://{KEY}@h/1", "scheme"),
        ("https://h/1", "key"),
        (f"https://:{SECRET}@h/1", "key"),
        (f"https://{KEY}\u00fc@h/1", "key"),
        (f"https://{KEY},x@h/1", "key"),
        (f"https://{KEY}:{SECRET}@h/", "project"),
        (f"https://{KEY}:{SECRET}@h", "project"),
        (f"https://{KEY}:{SECRET}@/1", "host"),
        (f"https://{KEY}:{SECRET}@h:port/1", "port"),
        (f"https://{KEY}:{SECRET}@[::1/1", "host"),
        (f"https://{KEY}:{SECRET}@h/a b/1", "path"),
    ],
)
def test_dsn_refused_says_what_is_missing_and_no_secret(dsn, missing):
    with pytest.raises(ConfigurationError) as caught:
        protocol.parse_dsn(dsn)
    assert missing in str(caught.value)
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None  # urllib's message would quote them


def test_dsn_shows_no_secret():
    shown = repr(protocol.parse_dsn(f"https://{KEY}:{SECRET}@h/1"))
    assert KEY not in shown
    assert SECRET not in shown


@given(st.text() | st.from_regex(r"https?://[^ ]*@[^ ]*/[^ ]*"))
def test_address_raises_nothing_else(text):
    for parse in (protocol.parse_dsn, protocol.parse_endpoint):
        with contextlib.suppress(ConfigurationError):
            assert parse(text)


def test_auth_of_raven_is_read():
    header = get_auth_header(6, 1.5, "raven-python/6.10.0", KEY, SECRET)
    assert protocol.parse_auth(header) == {
        "sentry_timestamp": "1.5",
        "sentry_client": "raven-python/6.10.0",
        "sentry_version": "6",
        "sentry_key": KEY,
        "sentry_secret": SECRET,
    }


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", {}),
        ("Sentry", {}),
        ("sentry   Sentry_Key = k ,, x", {"sentry_key": "k"}),
        ("sentry_key=k=v", {"sentry_key": "k=v"}),
        ("Sentry sentry_key=k\r\nX: y, sentry_version=7", {"sentry_version": "7"}),
        ("Sentry sentry_key=\u00fc, sentry_client=, =v", {}),
    ],
)
def test_auth_is_read_with_tolerance(header, expected):
    assert protocol.parse_auth(header) == expected


@pytest.mark.parametrize(
    ("client", "secret", "expected"),
    [
        ("raven-python/6.10.0", SECRET, {"sentry_version": "6", "sentry_secret": SECRET}),
        ("sentry.python/2.75.0", None, {"sentry_version": "7"}),
    ],
)
def test_sign_writes_what_parse_auth_reads(client, secret, expected):
    destination = Destination(
        base_url="https://h", project="1", public_key=KEY, secret_key=secret, client=client
    )
    assert protocol.parse_auth(protocol.sign(destination, NOW)) == {
        "sentry_timestamp": "1700000000.000",
        "sentry_client": client,
        "sentry_key": KEY,
        **expected,
    }


@given(st.text(), st.text(), st.text())
def test_sign_lets_nothing_into_another_field(key, secret, client):
    destination = Destination(
        base_url="https://h", project="1", public_key=key, secret_key=secret, client=client
    )
    header = protocol.sign(destination, NOW)
    assert header.isascii()
    assert header.isprintable()
    assert header.count(",") <= 4


def test_headers_are_split_into_auth_and_stored():
    fields, stored = protocol.split_headers({
        b"X-SENTRY-AUTH": f"Sentry sentry_key={KEY}".encode(),
        "User-Agent": b"raven-python/6.10.0",
        "content-encoding": "deflate",
        "Content-Type": " application/octet-stream ",
        "AUTHORIZATION": "Basic x",
        "Cookie": "x",
        "Proxy-Authorization": "x",
        "Host": "h",
        "Content-Length": 12,
        "Connection": "close",
        "Transfer-Encoding": "chunked",
        "X-Good": "caf\u00e9",
        "X-None": None,
    })  # fmt: skip
    assert fields == {"sentry_key": KEY}
    assert stored == (
        ("User-Agent", "raven-python/6.10.0"),
        ("content-encoding", "deflate"),
        ("Content-Type", "application/octet-stream"),
        ("X-Good", "caf\u00e9"),
    )


@pytest.mark.parametrize(
    "pair",
    [
        ("X-A", "b\r\nX-Evil: 1"),
        ("X-A", "b\nc"),
        ("X-A", "b\0c"),
        ("X-A", "\u20ac"),
        ("X-A\r\nX-Evil", "1"),
        ("X A", "1"),
        ("X-A:", "1"),
        ("", "1"),
        ("\u20ac", "1"),
        (b"X-A\n", b"1"),
        (b"X-A", b"1\r2"),
    ],
)
def test_header_that_could_start_another_is_dropped(pair):
    assert protocol.split_headers(dict([pair])) == ({}, ())


@given(st.dictionaries(st.text() | st.binary(), st.text() | st.binary() | st.none()))
def test_headers_stored_can_always_be_sent(headers):
    _, stored = protocol.split_headers(headers)
    for name, value in stored:
        assert not set("\r\n\0") & set(name + value)
        value.encode("latin-1")


ALL = frozenset()


def limit(seconds, *categories):
    return Limit(frozenset(categories), seconds)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("60:error:organization", [limit(60, "error")]),
        ("60:default:key", [limit(60, "error")]),
        ("60:monitor", [limit(60, "check_in")]),
        ("2.5:transaction;session:project:quota:custom:more",
         [limit(2.5, "transaction", "session")]),
        ("60::organization", [limit(60)]),
        ("60", [limit(60)]),
        ("60:;:key", [limit(60)]),
        ("60:bananas", []),
        ("60:bananas;error", [limit(60, "error")]),
        ("10:error, 60:error, 30:default", [limit(60, "error")]),
        ("10:error, 20::key, 5:session", [limit(10, "error"), limit(20), limit(5, "session")]),
        ("-5:error, nan:error, inf:error, soon:error, :error, 0:error", []),
        ("1e300:error", [limit(86400, "error")]),
        ("9999999:error", [limit(86400, "error")]),
        ("x" * 10_000 + ",60:error," + "1:x;" * 2_500, [limit(60, "error")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 400, 429, 503])
def test_rate_limits_of_sentrys_header(header, expected, status):
    headers = {"x-sentry-rate-limits": header, "retry-after": "7"}
    fallback = [limit(7)] if status == 429 else []
    limits = protocol.rate_limits(Response(status=status, headers=headers), NOW)
    assert set(limits) == set(expected or fallback)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 60),
        ("", 60),
        ("soon", 60),
        ("-3", 60),
        ("nan", 60),
        ("inf", 60),
        ("17", 17),
        (" 17.5 ", 17.5),
        ("0", 1),
        ("10, 20", 20),
        ("99999999999", 86400),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400),
        ("Wed, 99 Foo 2015 77:28:00 GMT", 60),
        ("x" * 10_000, 60),
    ],
)
def test_rate_limits_of_a_429_close_everything(header, seconds):
    headers = {} if header is None else {"retry-after": header}
    assert protocol.rate_limits(Response(status=429, headers=headers), NOW) == (limit(seconds),)


def test_rate_limits_ignore_retry_after_of_another_status():
    assert protocol.rate_limits(Response(status=503, headers={"retry-after": "9"}), NOW) == ()


@given(st.text(), st.text())
def test_rate_limits_are_sane_whatever_the_headers(sentrys, retry_after):
    headers = {"x-sentry-rate-limits": sentrys, "retry-after": retry_after}
    limits = protocol.rate_limits(Response(status=429, headers=headers), NOW)
    assert limits
    assert all(0 < each.seconds <= 86400 for each in limits)
    assert all(each.categories <= set(protocol.CATEGORIES) for each in limits)
