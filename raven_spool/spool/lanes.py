"""Destinations and lanes: which row an event belongs to, and what holds it back."""

import json
import math
from collections.abc import Iterable
from dataclasses import MISSING, Field, asdict, fields
from typing import TYPE_CHECKING, Any

from raven_spool.model import Destination, Lane
from raven_spool.spool.rows import YEAR_10000, cast

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

# Cast, as the columns of events are (rows.py), and bounded: by what a calendar can show, and by
# what a back-off can be computed of (2 to the power of it).
_MOST_FAILURES = 1_000_000
_LANE_COLUMNS = (
    f"id, {cast('destination', int)}, {cast('category', str)}, "
    f"{cast('open_at', float, YEAR_10000)}, {cast('hold_seconds', float, YEAR_10000)}, "
    f"{cast('hold', str)}, {cast('reason', str)}, {cast('failures', int, _MOST_FAILURES)}, "
    f"{cast('ready', int)}"
)
LOST = Destination(base_url="", project="", public_key="")


class LaneBook:
    """The ids of destinations and lanes of the file that is open, looked up once."""

    def __init__(self) -> None:
        self._queue: EventQueue | None = None
        self._lanes: dict[tuple[Destination, str], int] = {}
        self._destinations: dict[int, Destination] = {}

    def lane_id(self, queue: "EventQueue", destination: Destination, category: str) -> int:
        """Made if it was not there.

        Crash:
            A destination or lane without events is left; the next send finds it.
        """
        self._follow(queue)
        key = (destination, category)
        found = self._lanes.get(key)
        if found is None:
            found = _make_lane(queue, destination, category)
            self._lanes[key] = found
        return found

    def destination(self, queue: "EventQueue", destination_id: int) -> Destination:
        self._follow(queue)
        found = self._destinations.get(destination_id)
        if found is None:
            row = queue.connection.execute(
                "SELECT settings FROM destinations WHERE id = ?", (destination_id,)
            ).fetchone()
            found = read_destination(row[0] if row else None)
            self._destinations[destination_id] = found
        return found

    def _follow(self, queue: "EventQueue") -> None:
        if queue is not self._queue:
            self._queue = queue
            self._lanes.clear()
            self._destinations.clear()


def read_destination(settings: object) -> Destination:
    """LOST, where nothing can be sent by what is stored."""
    try:
        found = json.loads(settings) if isinstance(settings, str) else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return LOST
    known = {field: found[field.name] for field in fields(Destination) if field.name in found}
    required = {field.name for field in fields(Destination) if field.default is MISSING}
    if not (required <= found.keys() and all(_fits(*one) for one in known.items())):
        return LOST
    return Destination(**{field.name: value for field, value in known.items()})


def _fits(field: "Field[Any]", value: object) -> bool:
    if field.type is float:
        return isinstance(value, int | float) and 0 <= value < math.inf
    return isinstance(value, field.type)  # type: ignore[arg-type]


def _make_lane(queue: "EventQueue", destination: Destination, category: str) -> int:
    execute = queue.connection.execute
    settings = json.dumps(asdict(destination), sort_keys=True)
    execute("INSERT OR IGNORE INTO destinations (settings) VALUES (?)", (settings,))
    (destination_id,) = execute(
        "SELECT id FROM destinations WHERE settings = ?", (settings,)
    ).fetchone()
    execute(
        "INSERT OR IGNORE INTO lanes (destination, category) VALUES (?, ''), (?, ?)",
        (destination_id, destination_id, category),
    )
    (lane,) = execute(
        "SELECT id FROM lanes WHERE destination = ? AND category = ?", (destination_id, category)
    ).fetchone()
    return int(lane)


def copy_lanes(queue: "EventQueue", to: "EventQueue") -> dict[int, int]:
    """Destinations and lanes under their own ids, with nothing in them. Returns how many events
    each has where it comes from."""
    destinations = queue.connection.execute("SELECT id, settings FROM destinations").fetchall()
    to.connection.executemany("INSERT INTO destinations VALUES (?, ?)", destinations)
    lanes = queue.connection.execute(
        f"SELECT id, {cast('destination', int)}, {cast('category', str)}, "
        f"{cast('ready', int)} + {cast('dead', int)} FROM lanes"
    ).fetchall()
    to.connection.executemany(
        "INSERT OR IGNORE INTO lanes (id, destination, category) VALUES (?, ?, ?)",
        [lane[:3] for lane in lanes],
    )
    return {lane: count for lane, _, _, count in lanes}


def read_lanes(queue: "EventQueue") -> list[Lane]:
    return _read(queue, f"SELECT {_LANE_COLUMNS} FROM lanes ORDER BY id")


def read_waiting(queue: "EventQueue") -> list[Lane]:
    """Those with ready events, and their destinations' own."""
    select = f"SELECT {_LANE_COLUMNS} FROM lanes WHERE"
    return _read(
        queue,
        f"{select} ready > 0 UNION ALL {select} ready <= 0 AND category = '' "
        "AND destination IN (SELECT destination FROM lanes WHERE ready > 0)",
    )


def read_beside(queue: "EventQueue", ids: Iterable[int]) -> list[Lane]:
    """These lanes, and all others of their destinations."""
    return _read(
        queue,
        f"SELECT {_LANE_COLUMNS} FROM lanes WHERE destination IN (SELECT destination "
        "FROM lanes WHERE id IN (SELECT value FROM json_each(?)))",
        (json.dumps(list(ids)),),
    )


def _read(queue: "EventQueue", sql: str, parameters: tuple[str, ...] = ()) -> list[Lane]:
    rows = queue.connection.execute(sql, parameters).fetchall()
    return _complete([Lane(**dict(zip(_FIELDS, row, strict=True))) for row in rows])


def _complete(found: list[Lane]) -> list[Lane]:
    """Each destination has its lane, also where a damaged page held that."""
    whole = {lane.destination_id for lane in found if not lane.category}
    missing = {lane.destination_id for lane in found} - whole
    return found + [lost_lane(-1 - destination, destination, "") for destination in missing]


def lost_lane(lane_id: int, destination_id: int, category: str) -> Lane:
    """Stands for one whose row is gone."""
    return Lane(
        id=lane_id,
        destination_id=destination_id,
        category=category,
        open_at=0.0,
        hold_seconds=0.0,
        hold="",
        reason="",
        failures=0,
        ready=0,
    )


_FIELDS = (
    "id", "destination_id", "category", "open_at", "hold_seconds", "hold", "reason", "failures",
    "ready",
)  # fmt: skip


def hold_lane(
    queue: "EventQueue",
    destination_id: int,
    category: str,
    *,
    open_at: float,
    hold_seconds: float,
    hold: str,
    reason: str,
    failures: int,
) -> None:
    """Close a lane until `open_at`, or category "" for the whole destination.

    A limit never shortens a limit: the later of two counts.
    """
    queue.connection.execute(
        "INSERT INTO lanes (destination, category, open_at, hold_seconds, hold, reason, failures) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (destination, category) DO UPDATE SET "
        "open_at = excluded.open_at, hold_seconds = excluded.hold_seconds, hold = excluded.hold, "
        "reason = excluded.reason, failures = excluded.failures "
        "WHERE NOT (lanes.hold = 'limited' AND lanes.open_at > excluded.open_at)",
        (destination_id, category, open_at, hold_seconds, hold, reason, failures),
    )


def open_lane(queue: "EventQueue", destination_id: int) -> None:
    """The destination has answered: it is whole again. Limits stay."""
    queue.connection.execute(
        "UPDATE lanes SET failures = 0, hold = '', open_at = 0, hold_seconds = 0, reason = '' "
        "WHERE destination = ? AND category = '' AND hold IN ('backoff', 'refused')",
        (destination_id,),
    )


def shorten_holds(queue: "EventQueue", now: float) -> None:
    """None ends later than its length from now: where one does, the clock was set back."""
    queue.connection.execute(
        "UPDATE lanes SET open_at = :now + hold_seconds WHERE open_at > :now + hold_seconds",
        {"now": now},
    )


def forget_backoff(queue: "EventQueue") -> None:
    """What `flush` does first: it ignores back-off, never limits."""
    queue.connection.execute(
        "UPDATE lanes SET open_at = 0, hold_seconds = 0 WHERE hold IN ('backoff', 'refused')"
    )


def totals(queue: "EventQueue") -> dict[str, Any]:
    """The ledger, summed over the lanes."""
    row = queue.connection.execute(
        "SELECT TOTAL(accepted), TOTAL(ready), TOTAL(dead), TOTAL(delivered), TOTAL(bytes) "
        "FROM lanes"
    ).fetchone()
    names = ("accepted", "ready", "dead", "delivered", "bytes")
    sums = dict(zip(names, map(_whole, row), strict=True))
    drops = queue.connection.execute(
        f"SELECT {cast('reason', str)} AS why, TOTAL(events) FROM drops GROUP BY why "
        "HAVING TOTAL(events) > 0"
    )
    dropped = {reason: _whole(events) for reason, events in drops}
    return {**sums, "dropped": sum(dropped.values()), "dropped_by_reason": dropped}


def count_ready(queue: "EventQueue") -> int:
    (ready,) = queue.connection.execute("SELECT TOTAL(ready) FROM lanes").fetchone()
    return int(ready)


def count_kept(queue: "EventQueue") -> int:
    """Ready and dead events."""
    (kept,) = queue.connection.execute("SELECT TOTAL(ready + dead) FROM lanes").fetchone()
    return _whole(kept)


def count_overflows(queue: "EventQueue") -> dict[int, int]:
    """Events dropped for want of room, by lane."""
    rows = queue.connection.execute(
        f"SELECT {cast('lane', int)}, {cast('events', int)} FROM drops WHERE reason = 'overflow'"
    )
    return dict(rows.fetchall())


def count_dead(queue: "EventQueue") -> dict[int, int]:
    """Dead letters by lane."""
    return dict(queue.connection.execute(f"SELECT id, {cast('dead', int)} FROM lanes").fetchall())


def _whole(total: float | None) -> int:
    """A sum as SQLite has it; of damaged counts it may be infinite, or none (NaN)."""
    return int(total) if total is not None and math.isfinite(total) else 0
