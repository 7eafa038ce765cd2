"""Foreign bodies: each is kept, sent and shown for what it is, whatever it is."""

import gzip
import json
import math
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import example
from hypothesis import strategies as st

from raven_spool.model import Event, Headers
from raven_spool.protocol import (
    CATEGORIES,
    build_request,
    decoded_body,
    describe,
    prepare,
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
    search,
    stores,
)
from tests.support.spools import HERE, NOW

NEW_ID = "f" * 32


@pytest.fixture(scope="module", autouse=True)
def noted() -> Iterator[None]:
    yield
    note_searches(
        "foreign bodies and envelopes",
        promise=4,
        seen="content kept; nothing raised but what is documented",
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
    @example(packed=(b'{"message":"a\\u0000b\\u0007\\ud800c"}', ""), agent="")
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
