"""stats: the ledger, each destination, and who delivers."""

import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

import click

from raven_spool.cli import words
from raven_spool.cli.exits import Exit, one_line
from raven_spool.cli.lateness import explain_lateness
from raven_spool.cli.metrics import render
from raven_spool.cli.place import using
from raven_spool.config import Options
from raven_spool.model import Lane
from raven_spool.spool import Spool
from raven_spool.spool.leader import LeaderRecord

_COUNTS = ("accepted", "ready", "dead", "delivered", "dropped")


def run(options: Options, *, as_json: bool, prometheus: bool, max_age: float | None = None) -> Exit:
    now = time.time()
    with using(options) as spool:
        figures = collect(spool, now)
    if as_json:
        click.echo(json.dumps(figures))
    elif prometheus:
        click.echo(render(figures), nl=False)
    else:
        _print(spool.path, figures, now)
    late = "" if max_age is None else explain_lateness(figures, max_age, now)
    if late:
        click.echo(f"raven-spool: {one_line(late)}", err=True)
    return Exit.LATER if late else Exit.DONE


def collect(spool: Spool, now: float) -> dict[str, Any]:
    """What `stats --json` shows."""
    stats = spool.stats()
    del stats["volatile"]  # of this process, which enqueues nothing
    return {
        **stats,
        "destinations": _destinations(spool, now),
        "leader": _leader(spool.leadership.look(), now),
    }


def _destinations(spool: Spool, now: float) -> list[dict[str, Any]]:
    """One for each host and project, however many clients and keys send there."""
    dead = spool.dead_by_lane()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for lane, destination in spool.all_lanes():
        host = one_line(urlsplit(destination.base_url).netloc)
        project = one_line(destination.project)
        entry = found.setdefault(
            (host, project), {"host": host, "project": project, "ready": 0, "dead": 0, "held": []}
        )
        entry["ready"] += lane.ready
        entry["dead"] += dead.get(lane.id, 0)
        if lane.hold and (lane.open_at > now or lane.hold != "limited"):
            entry["held"].append(_hold(lane))
    return list(found.values())


def _hold(lane: Lane) -> dict[str, Any]:
    return {
        "category": lane.category or None,  # None: all of the destination
        "hold": lane.hold,
        "reason": one_line(lane.reason),
        "until": lane.open_at or None,  # None, or past: it is to be tried now
    }


def _leader(record: LeaderRecord | None, now: float) -> dict[str, Any] | None:
    if record is None:
        return None
    stalled = record.is_stalled(now)
    if stalled and not _lives(record.pid):
        return None  # killed: it could not say good-bye
    return {"pid": record.pid, "progress_at": record.progress_at, "stalled": stalled}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# -- for people -----------------------------------------------------------------------------------


def _print(path: str, figures: dict[str, Any], now: float) -> None:
    rows = [("spool", path)]
    rows += [(name, str(figures[name])) for name in _COUNTS]
    rows[1] = ("accepted", f"{figures['accepted']} = ready + dead + delivered + dropped")
    if figures["dropped_by_reason"]:
        reasons = (f"{count} {reason}" for reason, count in figures["dropped_by_reason"].items())
        rows[-1] = ("dropped", f"{figures['dropped']} ({', '.join(reasons)})")
    oldest = figures["oldest_at"]
    rows.append(("bytes", f"{figures['bytes']} ({words.size(figures['bytes'])})"))
    rows.append(("limits", _limits_words(figures)))
    rows.append(("oldest", "-" if oldest is None else f"{words.span(now - oldest)} ago"))
    rows.append(("leader", _leader_words(figures["leader"], now)))
    if figures["alarm"]:
        rows.append(("alarm", figures["alarm"]))
    for name, value in rows:
        click.echo(f"{name:<10} {one_line(value)}")
    for entry in figures["destinations"]:
        _print_destination(entry, now)


def _limits_words(figures: dict[str, Any]) -> str:
    used, most = words.size(figures["used_bytes"]), words.size(figures["max_bytes"])
    text = f"{used} of {most} used"
    if figures["max_events"]:
        text += f", {figures['ready'] + figures['dead']} of {figures['max_events']} events"
    return f"{text}; then {figures['overflow']}"


def _leader_words(leader: dict[str, Any] | None, now: float) -> str:
    if leader is None:
        return "none"
    age = words.span(now - leader["progress_at"])
    moves = ", does not move" if leader["stalled"] else ""
    return f"process {leader['pid']}, progress {age} ago{moves}"


def _print_destination(entry: dict[str, Any], now: float) -> None:
    name = f"{entry['host']}, project {entry['project']}"
    click.echo(f"\n{name}: {entry['ready']} ready, {entry['dead']} dead")
    for hold in entry["held"]:
        what = f"{hold['category']} " if hold["category"] else ""
        until = hold["until"] or 0.0
        when = words.until(until, now) if until > now else "until the next try, due now"
        click.echo(f"  {what}{hold['hold']} {when}: {hold['reason']}")
