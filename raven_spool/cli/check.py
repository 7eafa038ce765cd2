"""check: what is wrong with a spool, and with --repair the mending of it."""

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

import click

from raven_spool.cli import words
from raven_spool.cli.bar import progress
from raven_spool.cli.exits import Exit, one_line
from raven_spool.cli.place import using
from raven_spool.config import Options
from raven_spool.spool import Spool
from raven_spool.spool.inspection import Fault

_SHOWN = 20


def run(options: Options, *, repairs: bool, as_json: bool) -> Exit:
    with using(options) as spool:
        found = _look(spool)
        left = found
        if repairs and found:
            spool.inspection.mend(found)
            left = _look(spool)
        events, kept = spool.inspection.count(), spool.inspection.kept()
    mended = [fault for fault in found if fault not in left]
    if as_json:
        _print_json(events, left, mended, kept)
    else:
        _print(events, left, mended, kept)
    if left:
        click.echo(f"raven-spool: {_sum_up(left, repairs)}", err=True)
    return Exit.CORRUPT if left else Exit.DONE


def _look(spool: Spool) -> list[Fault]:
    with progress("reading") as move:
        return list(spool.inspection.look(move))


def _sum_up(left: Sequence[Fault], repaired: bool) -> str:
    faults = f"{len(left)} fault{'s' if len(left) != 1 else ''}"
    if repaired:
        return f"{faults} left, which `check --repair` cannot mend, or not while others are at work"
    return f"{faults}: `raven-spool check --repair` mends what can be mended"


def _print(
    events: int, left: Sequence[Fault], mended: Sequence[Fault], kept: Sequence[str]
) -> None:
    _print_faults("mended", mended)
    _print_faults("", left)
    for name in kept:
        click.echo(
            f"kept: {name}: not all of its events could be read; what could has come back. "
            "Remove it when nobody wants to look at it any more"
        )
    if not left:
        click.echo(f"no fault {'left' if mended else 'found'} in {words.events(events)}")


def _print_faults(prefix: str, faults: Sequence[Fault]) -> None:
    for fault in faults[:_SHOWN]:
        click.echo(one_line(f"{prefix} {fault.about}: {_place(fault)}{fault.text}"))
    if len(faults) > _SHOWN:
        click.echo(one_line(f"{prefix} and {len(faults) - _SHOWN} more"))


def _place(fault: Fault) -> str:
    if fault.destination is None:
        return ""
    host = urlsplit(fault.destination.base_url).netloc
    return f"{host}, project {fault.destination.project}, {fault.category or 'all'}: "


def _print_json(
    events: int, left: Sequence[Fault], mended: Sequence[Fault], kept: Sequence[str]
) -> None:
    figures = {
        "events": events,
        "faults": [_as_json(fault) for fault in left],
        "mended": [_as_json(fault) for fault in mended],
        "kept": list(kept),
    }
    click.echo(json.dumps(figures))


def _as_json(fault: Fault) -> dict[str, str]:
    return {"about": fault.about, "text": one_line(_place(fault) + fault.text)}
