"""ls: the pending events, read in keyed pages, so that a million of them cost no memory."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import click

from raven_spool.cli import words
from raven_spool.cli.exits import Exit, one_line
from raven_spool.cli.place import using
from raven_spool.config import Options
from raven_spool.model import State
from raven_spool.protocol import describe
from raven_spool.spool import Spool, Stored

_PAGE_EVENTS = 50
_TERMINAL_EVENTS = 50
_HEADINGS = ("id", "state", "age", "attempts", "next try", "level", "project", "size", "title")
_LINE = "{:>8}  {:<5}  {:>6}  {:>8}  {:>8}  {:<7}  {:<8}  {:>9}  {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events were asked for."""

    state: State | None
    level: str | None
    project: str | None
    since_at: float | None

    def takes(self, stored: Stored) -> bool:
        return (
            (self.project is None or stored.destination.project == self.project)
            and (self.since_at is None or stored.event.created_at >= self.since_at)
            and (self.level is None or describe(stored.event).level == self.level)
        )

    def ends_before(self, page: list[Stored]) -> bool:
        """Ids follow arrival, but for the odd straggler: a page of old events ends the search."""
        return self.since_at is not None and all(
            stored.event.created_at < self.since_at for stored in page
        )

    @property
    def is_counted(self) -> bool:
        """Whether the ledger knows how many there are."""
        return self.level is None and self.project is None and self.since_at is None


def run(
    options: Options,
    *,
    state: str | None,
    level: str | None,
    project: str | None,
    since: float | None,
    limit: int | None,
    as_json: bool,
) -> Exit:
    now = time.time()
    wanted = Wanted(
        state=State(state) if state else None,
        level=level,
        project=project,
        since_at=None if since is None else now - since,
    )
    on_terminal = sys.stdout.isatty() and not as_json
    if limit is None and on_terminal:
        limit = _TERMINAL_EVENTS
    with using(options) as spool:
        first, is_more = _find_first(spool, wanted, limit)
        found = _walk(spool, wanted, first, _newest_id(spool))
        if as_json:
            _print_json(found)
        elif on_terminal:
            _print_table(found, now)
        else:
            _print_lines(found, now)
        if is_more and not as_json:
            click.echo(_more(spool, wanted, limit or 0), err=not on_terminal)
    return Exit.DONE


# -- reading --------------------------------------------------------------------------------------


def _find_first(spool: Spool, wanted: Wanted, limit: int | None) -> tuple[int, bool]:
    """The id of the oldest event to show, and whether older ones were left out."""
    if limit is None and wanted.since_at is None:
        return 0, False
    first, found, before = 1 << 62, 0, None
    while page := spool.page(state=wanted.state, before_id=before, limit=_PAGE_EVENTS):
        for stored in filter(wanted.takes, page):
            if found == limit:
                return first, True
            first, found = stored.id, found + 1
        if wanted.ends_before(page):
            break
        before = page[-1].id
    return first, False


def _newest_id(spool: Spool) -> int:
    newest = spool.page(limit=1)
    return newest[0].id if newest else 0


def _walk(spool: Spool, wanted: Wanted, first: int, top: int) -> Iterator[Stored]:
    """Upwards, and not beyond `top`: an application may add without end."""
    after = first - 1
    while page := spool.page(state=wanted.state, after_id=after, limit=_PAGE_EVENTS):
        for stored in page:
            if stored.id > top:
                return
            if wanted.takes(stored):
                yield stored
        after = page[-1].id


def _more(spool: Spool, wanted: Wanted, shown: int) -> str:
    if not wanted.is_counted:
        return f"older ones match too: --limit shows more than {shown}"
    stats = spool.stats()
    states = (State.READY, State.DEAD) if wanted.state is None else (wanted.state,)
    rest = max(1, sum(stats[one.value] for one in states) - shown)
    return f"{rest} more, older than these: --limit shows them"


# -- printing -------------------------------------------------------------------------------------


def describe_stored(stored: Stored) -> dict[str, Any]:
    """An event as `ls --json` shows it."""
    event, destination, described = stored.event, stored.destination, describe(stored.event)
    return {
        "id": stored.id,
        "event_id": event.event_id,
        "state": stored.state.value,
        "created_at": event.created_at,
        "attempts": stored.attempts,
        "next_attempt_at": stored.next_attempt_at,
        "size_bytes": len(event.body),
        "category": event.category,
        "level": described.level,
        "title": "(encrypted)" if stored.key_id else described.title,
        "project": one_line(destination.project),
        "host": one_line(urlsplit(destination.base_url).netloc),
        "error": one_line(stored.reason) or None,
    }


def _print_json(found: Iterator[Stored]) -> None:
    for stored in found:
        # Not click.echo, which flushes each line.
        sys.stdout.write(json.dumps(describe_stored(stored)) + "\n")


def _print_lines(found: Iterator[Stored], now: float) -> None:
    click.echo(_LINE.format(*_HEADINGS).upper())
    for stored in found:
        click.echo(_LINE.format(*_cells(stored, now)))


def _print_table(found: Iterator[Stored], now: float) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        right = heading in ("id", "age", "attempts", "next try", "size")
        table.add_column(heading, justify="right" if right else "left")
    for stored in found:
        style = "red" if stored.state is State.DEAD else ""
        cells = _cells(stored, now)
        for column, cell in zip(table.columns[:-1], cells, strict=False):
            # Where the terminal is narrow it is the title that wraps.
            column.min_width = max(column.min_width or len(str(column.header)), len(cell))
        table.add_row(*(Text(cell, style=style) for cell in cells))
    if table.row_count:
        Console().print(table)
    else:
        click.echo("no events")


def _cells(stored: Stored, now: float) -> tuple[str, ...]:
    row = describe_stored(stored)
    because = f"  ({row['error']})" if row["error"] else ""
    return (
        str(row["id"]),
        row["state"],
        words.span(now - row["created_at"]),
        str(row["attempts"]),
        _next_try(stored.next_attempt_at, now),
        row["level"],
        row["project"],
        words.size(row["size_bytes"]),
        row["title"] + because,
    )


def _next_try(at: float | None, now: float) -> str:
    if at is None:
        return "-"
    return "now" if at <= now else f"in {words.span(at - now)}"
