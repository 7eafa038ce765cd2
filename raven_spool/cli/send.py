"""send: one event from the command line, by the same way as an application's."""

import time
import uuid

import click

from raven_spool import backends
from raven_spool.cli.exits import Exit, Refusal
from raven_spool.cli.flush import Heard, deliver, listening, say
from raven_spool.cli.flushing import Wish
from raven_spool.cli.place import using
from raven_spool.config import Options, read_options
from raven_spool.errors import ConfigurationError, SpoolUnusable
from raven_spool.model import Destination, Event, State
from raven_spool.protocol import ParsedDsn, message_event, parse_dsn, prepare
from raven_spool.spool import TURNED_AWAY, Spool, Stored

_PATIENCE_SECONDS = 5.0  # nobody waits for a send from the shell as an application does


def run(path: str | None, *, message: str, dsn: str | None, level: str) -> Exit:
    if not dsn:
        raise ConfigurationError("DSN: none was given; name it with --dsn or SENTRY_DSN")
    parsed = parse_dsn(dsn)
    given = parsed.options if path is None else {**parsed.options, "spool_path": path}
    options = read_options(given, strict=True)
    event = _make_event(message, level, time.time())
    with using(options, creates=True) as spool, listening() as heard:
        newest = _enqueue(spool, event, _destination(parsed, options))
        if heard.last:
            click.echo(f"raven-spool: {heard.last}", err=True)
        click.echo(event.event_id)
        return _deliver(spool, options, event, newest, heard)


def _make_event(message: str, level: str, now: float) -> Event:
    event_id = uuid.uuid4().hex
    body, headers = message_event(message, level=level, now=now, event_id=event_id)
    return prepare(body, headers, endpoint="store", created_at=now, new_id=lambda: event_id)


def _destination(parsed: ParsedDsn, options: Options) -> Destination:
    return Destination(
        base_url=parsed.base_url,
        project=parsed.project,
        public_key=parsed.public_key,
        secret_key=parsed.secret_key,
        timeout_seconds=options.timeout,
        verify_ssl=options.verify_ssl,
        ca_certs=options.ca_certs,
        proxy=options.proxy,
        sender=backends.sender_of(options),
    )


def _enqueue(spool: Spool, event: Event, destination: Destination) -> int:
    """Commit the event, in a new spool if there is none; returns the id before its own."""
    existed = spool.exists(spool.path)
    try:
        newest = spool.page(limit=1)
        committed = spool.enqueue(event, destination, timeout_seconds=_PATIENCE_SECONDS)
    except SpoolUnusable as error:
        if existed:
            raise
        raise Refusal(Exit.CANNOT_CREATE, f"{error}: name another with --spool") from error
    if committed == TURNED_AWAY:
        raise Refusal(
            Exit.CANNOT_CREATE,
            f"the spool {spool.path} is full, and its rule is overflow=drop_newest: the event was "
            "dropped, and counted",
        )
    if not committed:
        raise Refusal(
            Exit.LATER, f"the spool {spool.path} is held by another program: nothing was sent"
        )
    return newest[0].id if newest else 0


def _deliver(spool: Spool, options: Options, event: Event, newest: int, heard: Heard) -> Exit:
    wish = Wish(concurrency=options.concurrency)
    summary = deliver(spool, options, wish, heard, shows_bar=True)
    kept = _find(spool, event, newest)
    if kept is None:
        return Exit.INTERRUPTED if summary.exit_code is Exit.INTERRUPTED else Exit.DONE
    if kept.state is State.DEAD:
        say(f"the event was refused and is a dead letter now: {kept.reason}", Exit.ERROR)
        return Exit.ERROR
    code = summary.exit_code or Exit.LATER
    say(f"the event stays in the spool {spool.path}: {summary.reason}", code)
    return code


def _find(spool: Spool, event: Event, after: int) -> Stored | None:
    while page := spool.page(after_id=after):
        for stored in page:
            if stored.event.event_id == event.event_id:
                return stored
        after = page[-1].id
    return None
