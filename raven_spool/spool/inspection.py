"""Whether a spool is what it says it is; mended, on request, where it is not.

Looking takes no gate: applications go on, and what they do meanwhile is no fault. It reads every
row once. Mending goes through the gate like every write; sends that come while the ledger is
counted anew wait in memory for so long.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raven_spool.errors import SpoolCorrupt
from raven_spool.model import Destination
from raven_spool.spool import lanes, ledger, native, schema
from raven_spool.spool.exposure import close_off, find_exposed
from raven_spool.spool.lanes import LOST, LaneBook
from raven_spool.spool.leader import Leadership
from raven_spool.spool.rows import StoredRow
from raven_spool.spool.salvage import Salvage
from raven_spool.spool.sealing import Seal
from raven_spool.spool.store import Store
from raven_spool.spool.stored import DAMAGED, UNDELIVERABLE, open_event

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

_PATIENCE_SECONDS = 5.0
_LEAD_PATIENCE_SECONDS = 15.0  # a leader that was stood down by us, or the salvage of another
_PAGE_EVENTS = 500
_PAGE_BYTES = 1 << 20
_TOLD = 20  # of what SQLite finds

MODES, FILE, EVENTS, LEDGER, ASIDE = "modes", "file", "events", "ledger", "aside"


Watch = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    about: str  # MODES, FILE, EVENTS, LEDGER or ASIDE
    text: str
    destination: Destination | None = None  # whose events these are
    category: str = ""


class Inspection:
    """Used by the tools. Raises as the store does, but for SpoolCorrupt, which is a fault."""

    def __init__(
        self,
        path: str,
        store: Store,
        book: LaneBook,
        seal: Seal,
        leadership: Leadership,
        salvage: Salvage,
    ) -> None:
        self._path = path
        self._store = store
        self._book = book
        self._seal = seal
        self._leadership = leadership
        self._salvage = salvage

    # -- looking ------------------------------------------------------------------------------

    def look(self, watch: Watch | None = None) -> Iterator[Fault]:
        """`watch` hears how many events have been read, and of how many."""
        for name, wrong in find_exposed(self._path):
            yield Fault(about=MODES, text=f"{name} {wrong}")
        try:
            # Only in a whole file do its rows and its ledger say anything.
            faults = list(self._look_at_file()) or [
                *self._look_at_ledger(),
                *self._look_at_events(watch),
            ]
            yield from faults
            yield from self._look_aside()
        except SpoolCorrupt as error:
            yield Fault(about=FILE, text=str(error))

    def count(self) -> int:
        """The events of the file; 0 where that can't be read."""
        try:
            return self._store.read(lanes.count_kept)
        except SpoolCorrupt:
            return 0

    def kept(self) -> list[str]:
        """Old files that stay because not all of their events could be read."""
        try:
            return self._salvage.list_aside()[1]
        except SpoolCorrupt:
            return []

    def _look_at_file(self) -> Iterator[Fault]:
        for line in self._store.read(_check_integrity):
            yield Fault(about=FILE, text=line)

    def _look_at_ledger(self) -> Iterator[Fault]:
        accounts = self._store.read(ledger.read_accounts)
        of = {lane.id: lane for lane in self._store.read(lanes.read_lanes)}
        for account in accounts:
            if text := account.complain():
                lane = of[account.lane]
                yield Fault(
                    about=LEDGER,
                    text=text,
                    destination=self._destination(lane.destination_id),
                    category=lane.category,
                )

    def _look_at_events(self, watch: Watch | None) -> Iterator[Fault]:
        for _, found in self._judged(watch):
            for key, reason in found.items():
                yield Fault(about=EVENTS, text=f"event {key}: {reason}")

    def _look_aside(self) -> Iterator[Fault]:
        for name in self._salvage.list_aside()[0]:
            where = os.path.join(self._path, name)
            yield Fault(
                about=ASIDE,
                text=f"{where} was put aside; what can be read of it has not come back yet: "
                "whoever delivers, an application or `raven-spool flush`, brings it back",
            )

    def _judged(self, watch: Watch | None = None) -> Iterator[tuple[str, dict[int, str]]]:
        """In parts: a generation, and which rows of it can't be sent as they are, and why."""
        destinations = self._destinations()
        read, kept = 0, self.count()
        for generation, rows in self._rows():
            read += len(rows)
            if watch is not None:
                watch(read, kept)
            verdicts = {row.id: self._judge(row, destinations) for row in rows}
            yield generation, {key: reason for key, reason in verdicts.items() if reason}

    def _rows(self) -> Iterator[tuple[str, list[StoredRow]]]:
        """All of them, oldest first, a MiB at a time, each part with its generation."""
        after, ids = 0, self._ids(0)
        while ids:
            generation, rows = self._fetch(ids)
            yield generation, rows
            after = rows[-1].id if rows else ids[-1]
            ids = [key for key in ids if key > after] or self._ids(after)

    def _ids(self, after: int) -> list[int]:
        keys = self._store.read(lambda queue: queue.list_keys("1", after, _PAGE_EVENTS))
        return [key[0] for key in keys]

    def _fetch(self, ids: list[int]) -> tuple[str, list[StoredRow]]:
        return self._store.read(
            lambda queue: (self._store.generation, queue.fetch(ids, _PAGE_BYTES))
        )

    def _judge(self, row: StoredRow, destinations: dict[int, Destination]) -> str:
        if row.lane not in destinations:
            return UNDELIVERABLE
        if row.status == schema.DEAD:
            return ""  # a dead letter may be damaged: it is kept, and `show` says so
        if row.status not in (0, schema.READY) or open_event(row, "", self._seal) is None:
            return DAMAGED
        return UNDELIVERABLE if destinations[row.lane] == LOST else ""

    def _destinations(self) -> dict[int, Destination]:
        """By lane, in one read: there may be thousands."""

        def look(queue: "EventQueue") -> dict[int, Destination]:
            found = [lane for lane in lanes.read_lanes(queue) if lane.id > 0]
            return {lane.id: self._book.destination(queue, lane.destination_id) for lane in found}

        return self._store.read(look)

    def _destination(self, destination_id: int) -> Destination:
        return self._store.read(lambda queue: self._book.destination(queue, destination_id))

    # -- mending ------------------------------------------------------------------------------

    def mend(self, faults: Sequence[Fault]) -> None:
        """What of these can be mended. Whatever may hold events stays.

        Crash:
            Between any two steps: the rest is found again.
        """
        about = {fault.about for fault in faults}
        if MODES in about:
            close_off(self._path)
        if FILE in about:
            self._store.quarantine(self._store.generation, _PATIENCE_SECONDS)
        if EVENTS in about:
            self._bury()
        if LEDGER in about or EVENTS in about:
            self._store.write(ledger.recount, _PATIENCE_SECONDS)
        if FILE in about or ASIDE in about:
            self._bring_back()

    def _bury(self) -> None:
        for generation, found in self._judged():
            if found:
                self._bury_rows(generation, found)

    def _bury_rows(self, generation: str, found: dict[int, str]) -> None:
        def bury(queue: "EventQueue") -> None:
            if generation != self._store.generation:
                return  # another file: other events
            queue.adopt(list(found), self._book.lane_id(queue, LOST, "error"))
            for reason in set(found.values()):
                ids = [key for key in found if found[key] == reason]
                queue.move(ids, schema.DEAD, reason, time.time())

        self._store.write(bury, _PATIENCE_SECONDS)

    def _bring_back(self) -> None:
        """To the end, by us or by another who leads meanwhile."""
        give_up_at = time.monotonic() + _LEAD_PATIENCE_SECONDS
        while not self._leadership.take_if_free():
            if time.monotonic() > give_up_at or not self._salvage.list_aside()[0]:
                return
            native.sleep(0.1)
        careful = self._leadership.careful
        try:
            while self._salvage.step()[0]:
                self._leadership.tick(0.0)
        finally:
            # Nothing was sent: how the leader before us ended is for the one after us to know.
            self._leadership.let_go(clean=not careful)


def _check_integrity(queue: "EventQueue") -> list[str]:
    found = queue.connection.execute(f"PRAGMA integrity_check({_TOLD})").fetchall()
    lines = [line for (text,) in found for line in str(text).splitlines()]
    missing = sorted(schema.missing(queue.connection))
    return [line for line in lines if line != "ok"] + [f"it lacks {name}" for name in missing]
