"""show: one event whole."""

import base64
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click

from raven_spool.cli import words
from raven_spool.cli.exits import Exit, Refusal, one_line
from raven_spool.cli.finding import find
from raven_spool.cli.ls import describe_stored
from raven_spool.cli.place import using
from raven_spool.config import Options
from raven_spool.model import Destination, Event
from raven_spool.protocol import decoded_body, describe
from raven_spool.protocol.coding import load_object
from raven_spool.protocol.envelope import Item, iterate_items, load_header
from raven_spool.spool import Stored

_LEAST_KEY = 16  # Sentry's have 32 digits; what is shorter may be a word of the event


def run(options: Options, *, asked: str, shows_body: bool, as_json: bool) -> Exit:
    with using(options) as spool:
        found = find(spool, [asked])
        if not found.keys:
            raise Refusal(Exit.ERROR, found.complaints[0])
        stored = spool.get(found.keys[0].id)
    if shows_body:
        _print_body(stored)
    elif as_json:
        click.echo(json.dumps(_describe(stored)))
    else:
        _print(stored, time.time())
    return Exit.DONE


# -- what is known of it --------------------------------------------------------------------------


def _describe(stored: Stored) -> dict[str, Any]:
    """As `ls --json` has it, and more."""
    return {
        **describe_stored(stored),
        "dead_at": stored.dead_at,
        "environment": describe(stored.event).environment,
        "endpoint": stored.event.endpoint,
        "damaged": not stored.is_whole,
        "history": [{"at": at, "outcome": one_line(what)} for at, what in stored.history],
    }


def _seal(stored: Stored) -> str:
    return (
        f"it is sealed with the key {stored.key_id}, which is not among those of "
        "RAVEN_SPOOL_ENCRYPTION_KEY"
    )


def _print(stored: Stored, now: float) -> None:
    rows = [*_rows(_describe(stored), now)]
    if stored.key_id:
        rows.append(("encrypted", _seal(stored)))
    for name, value in rows:
        click.echo(f"{name:<12} {value}".rstrip())


def _rows(row: dict[str, Any], now: float) -> Iterator[tuple[str, str]]:
    yield "event", f"{row['event_id']}, number {row['id']}"
    yield "title", row["title"]
    yield "level", row["level"]
    if row["environment"]:
        yield "environment", row["environment"]
    yield "captured", _when(row["created_at"], now)
    yield "destination", f"{row['host']}, project {row['project']}"
    yield "state", _state(row, now)
    if row["error"]:
        yield "error", row["error"]
    yield "attempts", _attempts(row)
    for attempt in row["history"]:
        yield "", f"{_clock(attempt['at'])}  {attempt['outcome']}"
    size = words.size(row["size_bytes"])
    yield "body", f"{size} as sent, {row['category']} ({row['endpoint']}); --body shows it"
    if row["damaged"]:
        yield "damaged", _damage(row["id"])


def _state(row: dict[str, Any], now: float) -> str:
    if row["dead_at"] is not None:
        return (
            f"dead since {_when(row['dead_at'], now)}; `raven-spool retry {row['id']}` revives it"
        )
    at = row["next_attempt_at"] or 0.0
    return f"ready, held {words.until(at, now)}" if at > now else "ready, due now"


def _attempts(row: dict[str, Any]) -> str:
    counted, noted = row["attempts"], len(row["history"])
    if noted < counted:
        return f"{counted}, the last {noted} of them:"
    return f"{counted} since it was retried, {noted} in all:" if noted > counted else str(counted)


def _when(at: float, now: float) -> str:
    return f"{_clock(at)} ({words.span(now - at)} ago)"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _damage(key: int) -> str:
    return f"its bytes on disk have changed; `raven-spool rm {key}` removes it"


# -- the body -------------------------------------------------------------------------------------


def _print_body(stored: Stored) -> None:
    """For people spread out and with nothing that moves a terminal, else as it was captured."""
    if stored.key_id:
        raise Refusal(Exit.CONFIGURATION, f"event {stored.id} cannot be shown: {_seal(stored)}")
    if not stored.is_whole:
        raise Refusal(Exit.CORRUPT, f"event {stored.id} is damaged: {_damage(stored.id)}")
    try:
        documents = [_hide_keys(one, stored.destination) for one in _documents(stored.event)]
        if sys.stdout.isatty():
            documents = [_spread(one) for one in documents]
    except (ValueError, RecursionError) as error:
        raise Refusal(
            Exit.ERROR, f"the body of event {stored.id} cannot be shown: {error}"
        ) from error
    for document in documents:
        click.echo(document)


def _documents(event: Event) -> list[str]:
    decoded = _decode(event)
    if event.endpoint == "envelope":
        if load_header(decoded) is None:
            raise ValueError("it is no envelope")
        return [json.dumps(_describe_item(item)) for item in iterate_items(decoded)]
    if load_object(decoded) is None:
        raise ValueError("it is no JSON object")
    return [decoded.decode(json.detect_encoding(decoded), "replace").rstrip("\n")]


def _decode(event: Event) -> bytes:
    decoded = decoded_body(event)
    if event.endpoint == "envelope" or decoded.lstrip()[:1] == b"{":
        return decoded
    # Ravens of old posted base64 of zlib and said nothing of it; Sentry tries this too.
    try:
        packed = base64.b64decode(decoded, validate=True)
        return decoded_body(replace(event, body=packed, headers=(("Content-Encoding", "deflate"),)))
    except ValueError:
        return decoded


def _describe_item(item: Item) -> dict[str, Any]:
    payload = item.load()
    if payload is None:  # an attachment
        return {"type": item.type, "size_bytes": len(item.payload)}
    return {"type": item.type, "payload": payload}


def _hide_keys(document: str, destination: Destination) -> str:
    """An event may hold its own DSN: in a frame's variables, in a setting."""
    for key in (destination.secret_key, destination.public_key):
        if key and len(key) >= _LEAST_KEY:
            document = document.replace(key, "[hidden]")
    return document


def _spread(document: str) -> str:
    text = json.dumps(json.loads(document), indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
