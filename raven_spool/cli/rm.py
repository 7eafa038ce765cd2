"""rm: delete events for good. The ledger counts them as dropped: removed."""

import contextlib
import sys
from collections.abc import Sequence

import click

from raven_spool.cli import words
from raven_spool.cli.exits import Exit, one_line
from raven_spool.cli.finding import batches, find
from raven_spool.cli.place import using
from raven_spool.config import Options
from raven_spool.errors import EventNotFound
from raven_spool.protocol import describe
from raven_spool.spool import Key, Spool

_REASON = "removed"
_SHOWN = 10


def run(options: Options, *, asked: Sequence[str], yes: bool) -> Exit:
    """What is not found is told; the others are removed, as rm(1) does."""
    with using(options) as spool:
        found = find(spool, asked)
        for complaint in found.complaints:
            _tell(complaint)
        if not found.keys:
            return Exit.ERROR
        if not (yes or _agreed(spool, found.keys)):
            _tell("nothing was removed (--yes removes without asking)")
            return Exit.ERROR
        removed = _remove(spool, found.keys)
    click.echo(f"{words.events(removed)} removed")
    if removed < len(found.keys):
        _tell(f"{words.events(len(found.keys) - removed)} went before that: delivered, or dropped")
    return Exit.ERROR if found.complaints or removed < len(found.keys) else Exit.DONE


def _remove(spool: Spool, keys: Sequence[Key]) -> int:
    return sum(
        spool.drop([key.id for key in batch], _REASON, generation=generation)
        for generation, batch in batches(keys)
    )


def _agreed(spool: Spool, keys: Sequence[Key]) -> bool:
    for key in keys[:_SHOWN]:
        with contextlib.suppress(EventNotFound):
            _show(spool, key)
    if len(keys) > _SHOWN:
        click.echo(f"and {len(keys) - _SHOWN} more", err=True)
    click.echo(
        f"remove {words.events(len(keys))}, never to be delivered? [y/N] ", err=True, nl=False
    )
    answer = sys.stdin.readline()
    if not answer:
        click.echo(err=True)  # nobody there: what follows is a line of its own
    return answer.strip().lower() in ("y", "yes")


def _show(spool: Spool, key: Key) -> None:
    stored = spool.get(key.id)
    told = describe(stored.event)
    click.echo(f"{key.id:>8}  {stored.state.value:<5}  {told.level:<7}  {told.title}", err=True)


def _tell(text: str) -> None:
    click.echo(f"raven-spool: {one_line(text)}", err=True)
