"""flush: deliver now, say what came of it."""

import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from raven_spool import backends
from raven_spool.cli.bar import progress
from raven_spool.cli.exits import Exit, one_line
from raven_spool.cli.flushing import Watch, Wish, flush
from raven_spool.cli.place import using
from raven_spool.cli.remains import explain_rest
from raven_spool.config import Options, read_option
from raven_spool.spool import Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a flush, or whoever led meanwhile, has done."""

    delivered: int
    dead: int
    dropped: int
    remaining: int
    reason: str  # why they remain
    exit_code: Exit

    def __str__(self) -> str:
        parts = [f"{self.delivered} delivered", f"{self.dead} dead"]
        if self.dropped:
            parts.append(f"{self.dropped} dropped")
        text = ", ".join((*parts, f"{self.remaining} remaining"))
        if self.dead:
            text += " (why they are dead: raven-spool ls --state dead)"
        return text + (f": {self.reason}" if self.reason else "")

    def as_json(self) -> str:
        names = ("delivered", "dead", "dropped", "remaining", "reason", "exit_code")
        return json.dumps({name: getattr(self, name) for name in names})


class Heard(logging.Handler):
    """What the spool and the drain log: told only where nothing else explains an end."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


def run(
    options: Options,
    *,
    timeout: float | None,
    limit: int | None,
    concurrency: int | None,
    sender: str | None,
    quiet: bool,
    as_json: bool,
) -> Exit:
    deadline = None if timeout is None else time.monotonic() + timeout
    with using(options) as spool, listening() as heard:
        wish = Wish(
            concurrency=concurrency or options.concurrency,
            limit=limit,
            deadline=deadline,
            sender=_load_sender(sender, options),
        )
        summary = deliver(spool, options, wish, heard, shows_bar=not (quiet or as_json))
    if as_json:
        click.echo(summary.as_json())
    if not quiet and (summary.exit_code or not as_json):
        say(str(summary), summary.exit_code)
    return summary.exit_code


def _load_sender(given: str | None, options: Options) -> str | None:
    """A sender that was named must be there before anything is sent."""
    backends.sender_of(options)
    if given is None:
        return None
    read_option("sender", given)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a module beside us is found, as `python -m` finds it
    backends.make_sender(backends.name_sender(given))
    return given


def say(text: str, code: Exit) -> None:
    click.echo(one_line(text if code is Exit.DONE else f"raven-spool: {text}"), err=bool(code))


@contextlib.contextmanager
def listening() -> Iterator[Heard]:
    logger, heard = logging.getLogger("raven.spool"), Heard()
    before = logger.propagate
    logger.addHandler(heard)
    logger.propagate = False
    try:
        yield heard
    finally:
        logger.removeHandler(heard)
        logger.propagate = before


def deliver(
    spool: Spool, options: Options, wish: Wish, heard: Heard, *, shows_bar: bool
) -> Summary:
    """Flush and sum up; Ctrl-C and SIGTERM end it early and in order."""
    before = spool.stats()
    try:
        with _terminable(), _progress(spool, before["ready"], shown=shows_bar) as watch:
            ending = flush(spool, options, wish, watch)
        code, reason = explain_rest(spool, ending, heard.last)
    except KeyboardInterrupt:
        code, reason = Exit.INTERRUPTED, "interrupted; what remains is in the spool"
    return _sum_up(before, spool.stats(), code, reason)


def _sum_up(before: dict[str, Any], after: dict[str, Any], code: Exit, reason: str) -> Summary:
    made = {name: max(0, after[name] - before[name]) for name in ("delivered", "dead", "dropped")}
    return Summary(**made, remaining=after["ready"], reason=reason, exit_code=code)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """`timeout 60 raven-spool flush` and systemd send SIGTERM: the same orderly end."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _progress(spool: Spool, total: int, *, shown: bool) -> Iterator[Watch]:
    with progress("delivering", shown=shown and total > 0) as move:

        def move_on() -> None:
            if move is not None:
                move(max(0, total - spool.stats()["ready"]), total)

        move_on()
        yield move_on
