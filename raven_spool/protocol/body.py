"""Events on their way in (`prepare`) and on their way out (`build_request`)."""

import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from raven_spool.model import Destination, Event, Headers, Request
from raven_spool.protocol.auth import sendable, sign
from raven_spool.protocol.category import category_of_items, wants_event_id
from raven_spool.protocol.coding import decode, dump_object, encode, load_object
from raven_spool.protocol.envelope import iterate_items, load_header, replace_header

# `sent_at` is set at each attempt: Relay shifts every time of an event by its age, and refuses two
# of them. `dsn` holds a key, and would be wrong after a `retry --dsn`.
_NOT_KEPT = ("sent_at", "dsn")
_EVENT_ID = re.compile(r"[0-9a-f]{32}")
_ID_KEY = b'"event_id"'
_ID_MEMBER = re.compile(rb'"event_id"\s*:\s*"([0-9a-f]{32})"')
_MAX_TIMEOUT_SECONDS = 86400.0  # a socket raises OverflowError at more than 24.8 days
_NIL_ID = "0" * 32  # Relay takes it for no id

_Prepared = tuple[str, str, bytes, Headers]  # event id, category, body, headers


def prepare(
    body: bytes,
    headers: Headers,
    *,
    endpoint: str,
    created_at: float,
    new_id: Callable[[], str],
) -> Event:
    """One request of a client as the event to store.

    The body stays as the client made it, but for four repairs: a zlib stream gets a gzip
    container; a missing event id is put in (a retry would be a second event otherwise); an
    envelope loses `sent_at` and `dsn`. What can't be decoded is kept byte for byte.

    Args:
        headers: the stored ones of `split_headers`.
        endpoint: "store" or "envelope".
        new_id: makes an event id: 32 lowercase hex digits.
    """
    prepare_one = _prepare_envelope if endpoint == "envelope" else _prepare_store
    try:
        prepared = prepare_one(body, headers, new_id)
    except ValueError:
        prepared = None
    event_id, category, body, headers = prepared or (new_id(), "error", body, headers)
    return Event(
        event_id=event_id,
        category=category,
        endpoint=endpoint,
        headers=headers,
        body=body,
        created_at=created_at,
    )


def build_request(event: Event, destination: Destination, now: float) -> Request:
    """One attempt to deliver an event: freshly signed, an envelope with a fresh `sent_at`."""
    body, headers = event.body, event.headers
    if event.endpoint == "envelope":
        body, headers = _stamp(event, now)
    return Request(
        url=f"{destination.base_url}/api/{destination.project}/{event.endpoint}/",
        headers=(*sendable(headers), ("X-Sentry-Auth", sign(destination, now))),
        body=body,
        timeout_seconds=min(destination.timeout_seconds, _MAX_TIMEOUT_SECONDS),
        verify_ssl=destination.verify_ssl,
        ca_certs=destination.ca_certs,
        proxy=destination.proxy,
    )


def decoded_body(event: Event) -> bytes:
    """The body without its content encoding.

    Raises:
        ValueError: it can't be decoded.
    """
    return decode(event.body, event.headers)[2]


def message_event(text: str, *, level: str, now: float, event_id: str) -> tuple[bytes, Headers]:
    """A complete store event that says `text`: its body and its headers."""
    captured = datetime.fromtimestamp(now, UTC)
    document = {
        "event_id": event_id,
        "timestamp": captured.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "level": level,
        "logger": "raven-spool",
        "platform": "python",
        "server_name": platform.node(),
        # Arguments of a shell need not be UTF-8; Relay refuses half a surrogate pair.
        "message": text.encode("utf-8", "replace").decode("utf-8"),
    }
    return encode(dump_object(document), (("Content-Type", "application/json"),))


def _prepare_store(body: bytes, headers: Headers, new_id: Callable[[], str]) -> _Prepared | None:
    body, headers, decoded = decode(body, headers)
    known_id = _ravens_id(decoded, headers)
    if known_id:
        return known_id, "error", body, headers
    document = load_object(decoded)
    if document is None:
        return None
    event_id = _normalize_id(document.get("event_id"))
    if not event_id:
        document["event_id"] = event_id = new_id()
        body, headers = encode(dump_object(document), headers)
    category = "transaction" if document.get("type") == "transaction" else "error"
    return event_id, category, body, headers


def _ravens_id(decoded: bytes, headers: Headers) -> str:
    """The event id of a body that raven made, without parsing the rest of it.

    raven gives every event an id and knows no transactions, so the one key of that name is the
    right one. (Inside a JSON string it would read `\\"event_id\\"`: no match.) With a second
    one, in somebody's extra data, the whole has to be parsed. This halves what a send costs: the
    parser holds the interpreter's lock, while inflating and checksums let other threads run.
    """
    if not any(name == "User-Agent" and value.startswith("raven-") for name, value in headers):
        return ""
    start = decoded.find(_ID_KEY)
    if start < 0 or decoded.find(_ID_KEY, start + len(_ID_KEY)) >= 0:
        return ""
    match = _ID_MEMBER.match(decoded, start)
    return _normalize_id(match[1].decode()) if match else ""


def _prepare_envelope(body: bytes, headers: Headers, new_id: Callable[[], str]) -> _Prepared | None:
    body, headers, decoded = decode(body, headers)
    header = load_header(decoded)
    if header is None:
        return None
    types = [item.type for item in iterate_items(decoded)]
    wanted = {name: value for name, value in header.items() if name not in _NOT_KEPT}
    event_id = _normalize_id(header.get("event_id")) or _item_id(decoded) or new_id()
    if wants_event_id(types) and not _normalize_id(header.get("event_id")):
        wanted["event_id"] = event_id
    if wanted != header:
        body, headers = encode(replace_header(decoded, wanted), headers)
    return event_id, category_of_items(types), body, headers


def _item_id(envelope: bytes) -> str:
    # The id that the application was told, where only the event itself has it.
    for item in iterate_items(envelope):
        if item.type in ("event", "transaction"):
            return _normalize_id((item.load() or {}).get("event_id"))
    return ""


def _normalize_id(value: Any) -> str:
    plain = value.replace("-", "").lower() if isinstance(value, str) else ""
    return plain if _EVENT_ID.fullmatch(plain) and plain != _NIL_ID else ""


def _stamp(event: Event, now: float) -> tuple[bytes, Headers]:
    # Packed again rather than as two gzip members: not every reader goes on after the first.
    sent_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    try:
        decoded = decoded_body(event)
        header = load_header(decoded)
        if header is not None:
            stamped = header | {"sent_at": sent_at.replace("+00:00", "Z")}
            return encode(replace_header(decoded, stamped), event.headers)
    except ValueError:
        pass  # undecodable: sent as the client made it
    return event.body, event.headers
