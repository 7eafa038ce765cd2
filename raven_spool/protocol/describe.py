"""What an event says of itself, for the rows of `raven-spool ls`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raven_spool.model import Event
from raven_spool.protocol.body import decoded_body
from raven_spool.protocol.coding import load_object
from raven_spool.protocol.envelope import iterate_items, load_header

_TITLE_CHARACTERS = 200
_READ_CHARACTERS = 20 * _TITLE_CHARACTERS  # enough of a megabyte's message to find a title in it
# CSI sequences (colours, cursor), OSC sequences (window titles, links), then any other escape
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b.?"
)
_PLACEHOLDER = re.compile(r"%(?:\((\w+)\))?[sdrif]|%%")
_LEVELS = {"critical": "fatal", "warn": "warning"} | {
    level: level for level in ("fatal", "error", "warning", "info", "debug")
}
_YEAR_10000 = 253402300800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An event in a line."""

    level: str
    title: str  # printable, one line
    timestamp: float | None  # when it was captured, if the body says so
    environment: str | None


def describe(event: Event) -> Description:
    """What Sentry would show of an event. Never raises, and nothing in it moves a terminal."""
    try:
        document = _document(event)
    except ValueError:
        document = None
    if document is None:
        return _describe({}, "(undecodable body)")
    return _describe(document, f"({event.category})")


def _describe(document: Mapping[str, Any], untitled: str) -> Description:
    title = next(filter(None, map(_one_line, _titles(document))), untitled)
    return Description(
        level=_level(document.get("level")),
        title=title,
        timestamp=_timestamp(document.get("timestamp")),
        environment=_one_line(_scalar(document.get("environment"))) or None,
    )


def _document(event: Event) -> Mapping[str, Any] | None:
    decoded = decoded_body(event)
    if event.endpoint != "envelope":
        return load_object(decoded)
    if load_header(decoded) is None:
        return None
    telling = ("event", "transaction", "feedback", "check_in")
    told = (item.load() for item in iterate_items(decoded) if item.type in telling)
    return next(filter(None, told), {})


def _titles(document: Mapping[str, Any]) -> Iterator[str]:
    yield _exception_title(document.get("exception") or document.get("sentry.interfaces.Exception"))
    for name in ("logentry", "sentry.interfaces.Message", "message"):
        yield _message_title(document.get(name))
    yield _scalar(_mapping(_mapping(document.get("contexts")).get("feedback")).get("message"))
    yield _scalar(document.get("transaction"))
    yield _scalar(document.get("monitor_slug"))


def _exception_title(exception: Any) -> str:
    values = exception.get("values", exception) if isinstance(exception, dict) else exception
    last = _mapping(values[-1] if isinstance(values, list) and values else values)
    kind, value = _scalar(last.get("type")), _scalar(last.get("value"))
    return ": ".join(filter(str.strip, (kind, value)))


def _message_title(message: Any) -> str:
    if not isinstance(message, dict):
        return _scalar(message)
    text = _scalar(message.get("message"))[:_READ_CHARACTERS]
    return _scalar(message.get("formatted")) or _fill(text, message.get("params"))


def _fill(text: str, params: Any) -> str:
    # Not `text % params`: a foreign "%999999999d" would fill the memory.
    positional = iter(params if isinstance(params, list) else ())

    def value_of(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        value = _mapping(params).get(match[1]) if match[1] else next(positional, None)
        return _scalar(value)[:_TITLE_CHARACTERS] or match[0]

    return _PLACEHOLDER.sub(value_of, text) if params else text


def _one_line(text: str) -> str:
    plain = _ESCAPES.sub("", text[:_READ_CHARACTERS]).strip()
    first = (plain.splitlines() or [""])[0]
    spaced = (" " if c.isspace() else c for c in first)
    title = "".join(c for c in spaced if c.isprintable()).strip()
    return title if len(title) <= _TITLE_CHARACTERS else title[: _TITLE_CHARACTERS - 1] + "…"


def _level(level: Any) -> str:
    if isinstance(level, int):  # raven writes the numbers of `logging`
        named = {50: "fatal", 40: "error", 30: "warning", 20: "info", 10: "debug"}
        return named.get(level // 10 * 10, "error")
    return _LEVELS.get(level.lower(), "error") if isinstance(level, str) else "error"


def _timestamp(value: Any) -> float | None:
    try:
        instant = float(value)
    except (ValueError, TypeError, OverflowError):
        instant = _iso_timestamp(value)
    return instant if 0 <= instant < _YEAR_10000 else None


def _iso_timestamp(value: Any) -> float:
    try:
        moment = datetime.fromisoformat(value)
        # raven and the SDKs mean UTC, with or without saying so
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return -1.0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _scalar(value: Any) -> str:
    match value:
        case str():
            return value
        case bool() | float():
            return str(value)
        case int():
            return str(value) if value.bit_length() < 1024 else "…"  # Python limits the digits
        case _:
            return ""
