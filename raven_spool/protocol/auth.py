"""The headers a client passed, and the auth header that we sign afresh for each attempt."""

import functools
import re
from collections.abc import Mapping

from raven_spool.model import Destination, Headers

_NOT_STORED = frozenset({
    # Credentials: they don't belong into event rows.
    "x-sentry-auth", "authorization", "cookie", "proxy-authorization",
    # One connection's business: each sender sets its own.
    "host", "content-length", "connection", "transfer-encoding", "keep-alive", "te", "trailer",
    "upgrade", "proxy-connection", "expect", "accept-encoding",
})  # fmt: skip
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110's token
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # latin-1 without what could start another header
_SCHEME = re.compile(r"^\s*sentry\s+", re.IGNORECASE)
_FIELD = re.compile(r"[\x20-\x7e]*")


def parse_auth(header: str) -> dict[str, str]:
    """The fields of an X-Sentry-Auth header, names in lower case; what is unreadable is left out.

    Source:
        raven 6.10.0, raven.utils.get_auth_header
    """
    fields = _SCHEME.sub("", header).split(",")
    return dict(filter(None, map(_parse_field, fields)))


@functools.lru_cache(maxsize=256)  # all but the timestamp come again with every event
def _parse_field(field: str) -> tuple[str, str] | None:
    name, _, value = field.partition("=")
    name, value = name.strip().lower(), value.strip()
    return (name, value) if name and value and _FIELD.fullmatch(name + value) else None


def split_headers(headers: Mapping[str, str]) -> tuple[dict[str, str], Headers]:
    """What a client's headers say of its destination, and those that are stored with the event."""
    fields: dict[str, str] = {}
    stored: dict[str, tuple[str, str]] = {}
    for raw_name, raw_value in headers.items():
        name, value = _text(raw_name), _text(raw_value).strip()
        lower = name.lower()
        if lower == "x-sentry-auth":
            fields = parse_auth(value)
        elif _is_stored(name, value):
            stored[lower] = (name, value)
    return fields, tuple(stored.values())


def sendable(headers: Headers) -> Headers:
    """Stored headers without those that no client of ours could have stored: whoever can write
    the file must not put a second request into ours, or headers of the connection's."""
    if all(_is_stored(name, value) for name, value in headers):
        return headers
    return tuple((name, value) for name, value in headers if _is_stored(name, value))


@functools.lru_cache(maxsize=256)  # clients send the same ones with every event
def _is_stored(name: str, value: str) -> bool:
    legal = _NAME.fullmatch(name) and _VALUE.fullmatch(value)
    return bool(legal) and name.lower() not in _NOT_STORED


def sign(destination: Destination, now: float) -> str:
    """The X-Sentry-Auth header of one attempt.

    The client's name is kept: Relay repairs NaN and Infinity for raven's events alone.

    Source:
        https://develop.sentry.dev/sdk/foundations/transport/authentication/
    """
    return f"Sentry sentry_timestamp={now:.3f}, {_identify(destination)}"


@functools.lru_cache(maxsize=256)  # all but the time is the same at each attempt
def _identify(destination: Destination) -> str:
    # raven's clients speak version 6, today's SDKs 7.
    version = "6" if destination.client.startswith("raven") else "7"
    fields = {
        "sentry_client": destination.client,
        "sentry_version": version,
        "sentry_key": destination.public_key,
        "sentry_secret": destination.secret_key or "",
    }
    clean = ((name, re.sub(r"[^\x20-\x2b\x2d-\x7e]", "", v)) for name, v in fields.items())
    return ", ".join(f"{name}={value}" for name, value in clean if value)


def _text(value: object) -> str:
    match value:
        case bytes():
            return value.decode("latin-1")
        case str():
            return value
        case _:
            return "\0"  # dropped, like any other control character
