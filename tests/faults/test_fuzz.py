"""Foreign bodies, headers, answers, addresses and option strings: read, or refused in the words the
reader promises, and never with more harm than that."""

import gzip
import json
import math
import threading
import zlib
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import example
from hypothesis import strategies as st

from raven_spool.config import READERS, read_option, read_options
from raven_spool.errors import ConfigurationError
from raven_spool.model import Destination, Event, Headers, Response
from raven_spool.protocol import (
    CATEGORIES,
    build_request,
    decoded_body,
    describe,
    parse_auth,
    parse_dsn,
    parse_endpoint,
    prepare,
    rate_limits,
    sign,
    split_headers,
)
from raven_spool.protocol.coding import load_object
from raven_spool.protocol.envelope import iterate_items
from tests.support.fuzzing import (
    encoded,
    envelopes,
    lengths,
    mutated,
    nested,
    note_searches,
    number_texts,
    option_texts,
    search,
    stores,
    texts,
)
from tests.support.spools import HERE, NOW

NEW_ID = "f" * 32
DAY = 86400.0


@pytest.fixture(scope="module", autouse=True)
def noted() -> Iterator[None]:
    yield
    note_searches(
        "foreign bodies, envelopes, headers, limits, addresses, options",
        promise=4,
        seen="content kept; every value bounded; nothing raised but what is documented",
    )


# -- bodies ---------------------------------------------------------------------------------------


def unpack(body: bytes, encoding: str) -> bytes | None:
    """By the standard library alone; None where that can't."""
    try:
        match encoding.strip().lower():
            case "" | "identity":
                return body
            case "gzip" | "x-gzip":
                return gzip.decompress(body)
            case "deflate":
                try:
                    return zlib.decompress(body)
                except zlib.error:
                    return zlib.decompress(body, wbits=-15)
    except (zlib.error, OSError, EOFError):
        pass
    return None


def encoding_of(headers: Headers) -> str:
    return dict(headers).get("Content-Encoding", "")


def as_parsed(text: bytes, *without: str) -> str | None:
    """A JSON object to compare (NaN equals itself here), None if it is none."""
    document = load_object(text)
    if document is None:
        return None
    return repr({key: document[key] for key in document if key not in without})


def split_envelope(envelope: bytes) -> tuple[bytes, bytes]:
    """The header's line, and all behind it."""
    header, newline, items = envelope.partition(b"\n")
    return header, newline + items


def check_content(event: Event, body: bytes, encoding: str) -> None:
    """Nothing is another than it was, but for what `prepare` says it repairs."""
    before, after = unpack(body, encoding), unpack(event.body, encoding_of(event.headers))
    if before is None or after is None:
        # gzip.decompress takes several members and zeros behind; we keep such a body as it is.
        assert event.body == body
        return
    if event.endpoint == "store":
        assert after == before or as_parsed(after, "event_id") == as_parsed(before, "event_id")
        return
    header, items = split_envelope(after)
    old_header, old_items = split_envelope(before)
    assert items == old_items
    repaired = ("event_id", "sent_at", "dsn")
    assert header == old_header or as_parsed(header, *repaired) == as_parsed(old_header, *repaired)


def check_request(event: Event) -> None:
    """What an attempt sends is the event, with a fresh `sent_at` in an envelope's header."""
    request = build_request(event, HERE, NOW)
    if event.endpoint == "store":
        assert request.body == event.body
        return
    stored = unpack(event.body, encoding_of(event.headers))
    sent = unpack(request.body, encoding_of(request.headers))
    if stored is None or sent is None:
        assert request.body == event.body
        return
    (old, items), (new, sent_items) = split_envelope(stored), split_envelope(sent)
    assert sent_items == items
    if request.body == event.body:
        assert load_object(old) is None
    else:
        assert as_parsed(new, "sent_at") == as_parsed(old, "sent_at")
        assert json.loads(new)["sent_at"] == "2023-11-14T22:13:20.000Z"


def check_shown(event: Event) -> None:
    shown = describe(event)
    assert shown.title.isprintable()
    assert len(shown.title) <= 200
    assert shown.level in ("fatal", "error", "warning", "info", "debug")
    assert shown.timestamp is None or math.isfinite(shown.timestamp)


def check_body(body: bytes, encoding: str, endpoint: str, agent: str) -> None:
    headers = (("User-Agent", agent), *([("Content-Encoding", encoding)] if encoding else []))
    event = prepare(body, headers, endpoint=endpoint, created_at=NOW, new_id=lambda: NEW_ID)
    assert len(event.event_id) == 32
    assert set(event.event_id) <= set("0123456789abcdef")
    assert event.category in CATEGORIES
    check_content(event, body, encoding)
    check_request(event)
    check_shown(event)
    try:
        decoded = decoded_body(event)
    except ValueError:
        return
    items = list(iterate_items(decoded))
    assert sum(len(item.payload) for item in items) <= len(decoded)


agents = st.sampled_from(["raven-python/6.10.0", "sentry.python/2.0"])
DEEP = [nested(depth) for depth in (900, 990, 1000, 100_000)]


@lengths(short=100, long=3_000)
def test_store_body_keeps_its_content(examples: int) -> None:
    @search(examples, packed=encoded(mutated(stores)), agent=agents)
    @example(packed=(DEEP[0], ""), agent="")
    @example(packed=(DEEP[1], ""), agent="")
    @example(packed=(DEEP[3], ""), agent="")
    def check(packed: tuple[bytes, str], agent: str) -> None:
        check_body(*packed, "store", agent)


@lengths(short=100, long=3_000)
def test_envelope_keeps_its_items(examples: int) -> None:
    @search(examples, packed=encoded(mutated(envelopes())))
    @example(packed=(b"{}\n" + b'{"type":' + DEEP[0] + b"}\n{}", ""))
    @example(packed=(b"{}\n" + b'{"type":' + DEEP[1] + b"}\n{}", ""))
    @example(packed=(b'{"sent_at":' + DEEP[1] + b"}\n{}", ""))
    def check(packed: tuple[bytes, str]) -> None:
        check_body(*packed, "envelope", "")


@lengths(short=100, long=5_000)
def test_bytes_that_are_no_body_are_kept(examples: int) -> None:
    encodings = st.sampled_from(["", "gzip", "deflate", "br"])

    @search(
        examples,
        body=st.binary(),
        encoding=encodings,
        endpoint=st.sampled_from(["store", "envelope"]),
    )
    def check(body: bytes, encoding: str, endpoint: str) -> None:
        check_body(body, encoding, endpoint, "")


# -- limits ---------------------------------------------------------------------------------------

_names = st.sampled_from(["error", "transaction", "default", "bogus", "", " ", "ERROR"])
_junk = st.builds(
    "{}:{}:{}".format, texts | number_texts, st.lists(_names, max_size=3).map(";".join), texts
)


def seconds_for(category: str, response: Response) -> float:
    """How long a category is closed by an answer."""
    found = rate_limits(response, NOW)
    assert all(0 < limit.seconds <= DAY for limit in found)
    assert all(limit.categories <= set(CATEGORIES) for limit in found)
    assert not found or response.status == 429 or "x-sentry-rate-limits" in response.headers
    applies = [
        limit.seconds for limit in found if not limit.categories or category in limit.categories
    ]
    return max(applies, default=0.0)


@lengths(short=150, long=5_000)
def test_no_junk_shortens_a_limit_or_makes_it_endless(examples: int) -> None:
    @search(
        examples,
        junk=st.lists(_junk.filter(lambda one: "," not in one), max_size=8),
        at=st.integers(0, 8),
        seconds=st.integers(1, 10**12),
        status=st.sampled_from([200, 429, 503]),
        retry_after=st.none() | texts,
    )
    @example(junk=["1:error:org"] * 10_000, at=5000, seconds=60, status=429, retry_after=None)
    def check(junk: list[str], at: int, seconds: int, status: int, retry_after: str | None) -> None:
        stated = ",".join([*junk[:at], f"{seconds}:error:organization", *junk[at:]])
        headers = {"x-sentry-rate-limits": stated}
        if retry_after is not None:
            headers["retry-after"] = retry_after
        answer = Response(status=status, headers=headers)
        assert seconds_for("error", answer) >= min(seconds, DAY)


@lengths(short=150, long=5_000)
def test_retry_after_is_obeyed_beside_junk(examples: int) -> None:
    @search(
        examples,
        junk=st.lists(texts.filter(lambda one: "," not in one), max_size=4),
        at=st.integers(0, 4),
        seconds=st.integers(0, 10**12),
        status=st.sampled_from([200, 429, 503]),
    )
    def check(junk: list[str], at: int, seconds: int, status: int) -> None:
        stated = ",".join([*junk[:at], str(seconds), *junk[at:]])
        closed = seconds_for("error", Response(status=status, headers={"retry-after": stated}))
        assert closed >= min(max(seconds, 1), DAY) if status == 429 else closed == 0


_dates = st.one_of(
    st.integers(0, 2**40).map(lambda at: formatdate(at, usegmt=True)),
    st.sampled_from(["Mon, 99 Foo 99999 99:99:99 +99999999999999999999", "Fri, 1 Jan 0000 0:0:0"]),
)


@lengths(short=100, long=5_000)
def test_retry_after_that_is_no_number_is_bounded(examples: int) -> None:
    @search(
        examples, header=texts | mutated(_dates.map(str.encode)).map(lambda b: b.decode("latin-1"))
    )
    @example(header="Mon, 1 Jan 2024 00:00:00 " + "9" * 5000)
    def check(header: str) -> None:
        answer = Response(status=429, headers={"retry-after": header})
        assert 1 <= seconds_for("error", answer) <= DAY


# -- headers and addresses ------------------------------------------------------------------------

SECRET = "0123456789secret"


def attempt(read: Callable[..., Any], *arguments: str) -> tuple[Any, str]:
    """What was read, and why it was refused."""
    try:
        return read(*arguments), ""
    except ConfigurationError as error:
        return None, str(error)


@lengths(short=100, long=5_000)
def test_headers_carry_nothing_into_ours(examples: int) -> None:
    values = texts | st.binary(max_size=20) | st.integers() | st.none()

    @search(
        examples,
        headers=st.dictionaries(
            texts | st.sampled_from(["X-Sentry-Auth", b"Content-Type", "Host"]), values
        ),
        auth=st.lists(texts).map(",".join),
        key=texts,
    )
    def check(headers: dict[Any, Any], auth: str, key: str) -> None:
        fields, stored = split_headers({**headers, "x-sentry-auth": f"Sentry {auth}"})
        for part in (*fields, *fields.values(), *(part for pair in stored for part in pair)):
            part.encode("latin-1")
            assert not set(part) & set("\r\n\0")
        assert not {name.lower() for name, _ in stored} & {"host", "x-sentry-auth", "cookie"}
        signed = sign(Destination(base_url="", project="", public_key=key, client=key), NOW)
        assert signed.isascii()
        assert signed.isprintable()
        assert set(parse_auth(signed)) <= {
            "sentry_timestamp", "sentry_version", "sentry_key", "sentry_client",
        }  # fmt: skip


_addresses = st.one_of(
    texts,
    st.builds(
        "{}://{}:{}@{}{}/{}?{}".format,
        st.sampled_from(["http", "https", "threaded+https", "ftp", "", "HTTP"]),
        st.sampled_from([SECRET, ""]) | texts,
        st.sampled_from([SECRET, ""]) | texts,
        st.sampled_from(["host", "[::1]", "[::1%eth0]", "1.2.3.4", "ü.example", "a..b", "[v1.x]"])
        | texts,
        st.sampled_from(["", ":80", ":0", ":99999", ":-1", ":x", ":٣"]),
        texts,
        texts,
    ),
)


@lengths(short=150, long=5_000)
def test_dsn_is_read_or_refused_without_its_secrets(examples: int) -> None:
    @search(examples, dsn=_addresses)
    def check(dsn: str) -> None:
        parsed, refused = attempt(parse_dsn, dsn)
        if parsed is None:
            assert SECRET not in refused
            return
        assert SECRET not in parsed.base_url.partition("://")[2].partition("/")[0]
        url = f"{parsed.base_url}/api/{parsed.project}/store/"
        assert parse_endpoint(url) == (parsed.base_url, parsed.project, "store")


# -- options --------------------------------------------------------------------------------------


@lengths(short=200, long=5_000)
def test_option_string_is_usable_or_refused_by_name(examples: int) -> None:
    @search(examples, name=st.sampled_from([*READERS]), text=option_texts)
    @example(name="max_bytes", text="9" * 400)
    @example(name="send_timeout", text="9" * 20)
    @example(name="timeout", text="30d")
    @example(name="concurrency", text="1" * 5000)
    def check(name: str, text: str) -> None:
        value, refused = attempt(read_option, name, text)
        if refused:
            assert refused.startswith(f"option {name}=")
            assert name in ("proxy", "encryption_key") or repr(text)[:80] in refused
            assert "4300" not in refused  # Python's words, not ours
            assert "infinity" not in refused
        elif name.endswith("timeout"):
            assert 0 <= value < threading.TIMEOUT_MAX

    @search(examples, given=st.dictionaries(st.sampled_from([*READERS]) | texts, option_texts))
    def check_lenient(given: dict[str, str]) -> None:
        read_options(given, {f"RAVEN_SPOOL_{name.upper()}": text for name, text in given.items()})
