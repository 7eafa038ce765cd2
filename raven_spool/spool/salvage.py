"""Brings back what can be read of generations that were put aside, a few events at a time.

The leader does it between two sends. How far it has come stands in the live file, written in the
same transaction as the rows it covers, the one place where a commit is more than one statement:
a kill between the two would bring events back twice, or not at all.
"""

import os
import re
import sqlite3
import time
from collections import Counter
from typing import TYPE_CHECKING

from raven_spool.errors import SpoolBusy, SpoolError
from raven_spool.spool import schema
from raven_spool.spool.lanes import LaneBook
from raven_spool.spool.leader import Leadership
from raven_spool.spool.ledger import accept, count_lost
from raven_spool.spool.places import MEMORY, list_generations
from raven_spool.spool.rows import StoredRow
from raven_spool.spool.store import Store
from raven_spool.spool.stored import DAMAGED, ENDPOINTS, is_whole
from raven_spool.spool.wreck import (
    Progress,
    Unreadable,
    Wreck,
    note_key,
    progress_text,
    read_progress,
    table_of,
)

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

_PATIENCE_SECONDS = 0.2
_TROUBLE_SECONDS = 60.0
_BEHIND_IS_BACK = "the spool's log was damaged; what stood behind the damage has come back"
_EVENT_ID = re.compile(r"[0-9a-f]{32}")
_COLUMNS = ", ".join(StoredRow._fields[1:])  # the id is the new file's
_MARKS = ", ".join("?" * len(StoredRow._fields[1:]))


class Salvage:
    """Used by one thread at a time (the drain's lock)."""

    def __init__(self, path: str, store: Store, book: LaneBook, leadership: Leadership) -> None:
        self._path = path
        self._store = store
        self._book = book
        self._leadership = leadership
        self._seen: tuple[str, int] = ("", 0)
        self._wrecks: list[str] = []
        self._paused_until = 0.0

    def step(self) -> tuple[bool, str]:
        """Bring back some more. Returns whether that is not all, and what is to be told.

        For who leads; where nothing was put aside it costs a comparison.

        Crash:
            What was committed is not read again; all else is.
        """
        if self._path == MEMORY or time.monotonic() < self._paused_until:
            return False, ""
        try:
            seen = (self._store.generation, self._leadership.epoch)
            if seen != self._seen:
                self._wrecks = self._look()
                self._seen = seen
            return self._advance() if self._wrecks else (False, "")
        except SpoolBusy:
            return True, ""
        except (
            SpoolError,
            OSError,
        ):  # no room, or what lies there can't be opened: deliveries go on
            self._paused_until = time.monotonic() + _TROUBLE_SECONDS
            return False, ""

    # -- finding ------------------------------------------------------------------------------

    def _look(self) -> list[str]:
        if len(list_generations(self._path)) < 2:
            return []
        return self._store.write(self._sort_out, _PATIENCE_SECONDS)

    def list_aside(self) -> tuple[list[str], list[str]]:
        """What is still to be brought back, and what is kept because not all of it could be."""

        def look(queue: "EventQueue") -> tuple[list[str], list[str]]:
            aside = {name: self._progress(queue, name) for name in self._others()}
            back = [name for name, progress in aside.items() if not progress.is_done]
            return back, [name for name in aside if name not in back]

        return self._store.read(look)

    def _others(self) -> list[str]:
        return [name for name in list_generations(self._path) if not self._is_live(name)]

    def _sort_out(self, queue: "EventQueue") -> list[str]:
        """What is to be brought back. Behind the gate, where nobody is about to begin one."""
        names = self._others()
        for name in names:
            self._adopt(queue, name)
        kept = [name for name in names if self._progress(queue, name).is_done]
        for name in kept[:-1]:
            self._remove(queue, name)
        for name in kept[-1:]:
            if not self._progress(queue, name).is_kept:
                self._remove(queue, name)
        return [name for name in names if name not in kept]

    def _adopt(self, queue: "EventQueue", name: str) -> None:
        """If it broke in the middle of bringing back an older one, that goes on from there."""
        wreck = self._wreck(queue, name)
        with wreck.opened() as connection:
            notes = wreck.notes(connection) if connection else []
        queue.connection.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", notes)

    def _wreck(self, queue: "EventQueue", name: str) -> Wreck:
        return Wreck(os.path.join(self._path, name), table_of(queue))

    def _progress(self, queue: "EventQueue", name: str) -> Progress:
        row = queue.connection.execute(
            "SELECT CAST(value AS TEXT) FROM meta WHERE key = ?", (note_key(name),)
        ).fetchone()
        return read_progress(row[0] if row else None)

    def _remove(self, queue: "EventQueue", name: str) -> None:
        self._wreck(queue, name).remove()
        queue.connection.execute("DELETE FROM meta WHERE key = ?", (note_key(name),))

    # -- bringing back ------------------------------------------------------------------------

    def _advance(self) -> tuple[bool, str]:
        name = self._wrecks[0]
        try:
            outcome = self._store.write(
                lambda queue: self._bring_back(queue, name), _PATIENCE_SECONDS
            )
        except Unreadable:
            outcome = "broken"
        if outcome == "moved":  # another leader, or we again, in a fresh file: look anew
            self._seen = ("", 0)
            return True, ""
        if outcome == "broken":
            self._mend(name)
        if outcome == "behind":
            self._mend_behind(name)
        if outcome in ("", "broken", "behind"):
            return True, ""
        self._wrecks.remove(name)
        return bool(self._wrecks), "" if outcome == "removed" else outcome

    def _mend(self, name: str) -> None:
        wreck = self._store.read(lambda queue: self._wreck(queue, name))
        try:
            wreck.mend()  # without the store's lock: those who send do not wait for it
        except FileNotFoundError:
            return  # another leader has begun anew, and removed what we had
        except OSError:
            if not self._store.write(lambda queue: self._pass_over(queue, name), _PATIENCE_SECONDS):
                raise

    def _mend_behind(self, name: str) -> None:
        wreck, progress = self._store.read(
            lambda queue: (self._wreck(queue, name), self._progress(queue, name))
        )
        is_left = False
        try:
            wreck.mend_behind(progress.last)
        except FileNotFoundError:
            return  # as above
        except OSError:
            is_left = True
        self._store.write(
            lambda queue: self._go_behind(queue, name, is_left=is_left), _PATIENCE_SECONDS
        )

    def _go_behind(self, queue: "EventQueue", name: str, *, is_left: bool) -> None:
        if self._leadership.still_leads(queue):
            progress = self._progress(queue, name)
            progress.is_behind, progress.blind = True, 0
            progress.is_kept = progress.is_kept or is_left
            self._commit(queue, name, progress, [], {})

    def _pass_over(self, queue: "EventQueue", name: str) -> bool:
        """Without a copy: what can't be read is left in the file, if there is a way into it."""
        if not self._leadership.still_leads(queue):
            return True
        wreck, progress = self._wreck(queue, name), self._progress(queue, name)
        with wreck.opened() as connection:
            if connection is None:
                return False
        progress.is_kept = True
        self._commit(queue, name, progress, [], {})
        return True

    def _bring_back(self, queue: "EventQueue", name: str) -> str:
        """One batch. "": there is more; "broken": a mended copy is needed; "behind": one of what
        stands behind a damage in its log; "moved": it is no longer ours to do; "removed", or what
        is to be told of its end."""
        if not self._leadership.still_leads(queue) or self._is_live(name):
            return "moved"
        wreck, progress = self._wreck(queue, name), self._progress(queue, name)
        with wreck.opened(progress) as connection:
            if connection is not None:
                if self._copy(queue, name, wreck, connection, progress):
                    return "behind"
                if not progress.is_done:
                    return ""
            elif not (wreck.is_mended or progress.is_behind or wreck.holds_nothing):
                return "broken"
            elif wreck.has_more_behind(progress):
                return "behind"
            elif not wreck.holds_nothing:
                progress.is_done = progress.is_kept = True
                self._commit(queue, name, progress, [], {})
        if progress.is_kept:
            return f"some events could not be read back: the old file is kept in {name}"
        self._remove(queue, name)
        return _BEHIND_IS_BACK if progress.is_behind else "removed"

    def _is_live(self, name: str) -> bool:
        return self._store.generation.partition(".")[0] == name

    def _copy(
        self,
        queue: "EventQueue",
        name: str,
        wreck: Wreck,
        connection: sqlite3.Connection,
        progress: Progress,
    ) -> bool:
        """Returns whether these were the last before a damage in its log, and there are others."""
        found = wreck.read(connection, progress)
        hides_more = progress.is_done and wreck.has_more_behind(progress)
        progress.is_done = progress.is_done and not hides_more
        rows = [row for row in found if _is_event(row)]
        progress.is_kept = progress.is_kept or len(rows) < len(found)
        for lane, count in Counter(row.lane for row in rows).items():
            progress.back[str(lane)] = progress.back.get(str(lane), 0) + count
        kept = wreck.kept(connection) if progress.is_done else {}
        lost = _missing(kept or {}, progress)
        progress.is_kept = progress.is_kept or kept is None or bool(lost)
        # Before the transaction: were it rolled back, the book would know lanes that are not there.
        lanes = {
            lane: self._book.lane_id(queue, *wreck.lane(connection, lane))
            for lane in {*lost, *(row.lane for row in rows)}
        }
        lost_there = {lanes[lane]: count for lane, count in lost.items()}
        moved = [row._replace(lane=lanes[row.lane]) for row in rows]
        self._commit(queue, name, progress, moved, lost_there)
        return hides_more

    def _commit(
        self,
        queue: "EventQueue",
        name: str,
        progress: Progress,
        rows: list[StoredRow],
        lost: dict[int, int],
    ) -> None:
        with queue.transaction():
            for row in rows:
                _insert(queue, row)
            for lane, count in lost.items():
                accept(queue, lane, count)
                count_lost(queue, lane, count)
            queue.connection.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                (note_key(name), progress_text(progress)),
            )


def _missing(kept: dict[int, int], progress: Progress) -> dict[int, int]:
    """What the old ledger has, by lane, and nobody could read."""
    missing = {lane: count - progress.back.get(str(lane), 0) for lane, count in kept.items()}
    return {lane: count for lane, count in missing.items() if count > 0}


def _is_event(row: StoredRow) -> bool:
    """Whether it can be told from noise; a damaged one is kept as a dead letter."""
    is_named = bool(_EVENT_ID.fullmatch(row.event_id))
    return is_named and (row.endpoint in ENDPOINTS or is_whole(row))


def _insert(queue: "EventQueue", row: StoredRow) -> None:
    """As it was: the triggers count it as ready, and the second statement as dead."""
    is_dead, reason = row.status >= schema.DEAD, row.reason
    if not is_whole(row) or row.endpoint not in ENDPOINTS:
        is_dead, reason = True, DAMAGED
    row = row._replace(
        status=schema.READY if is_dead else min(max(row.status, 0), schema.READY),
        size=len(row.data),
        reason=reason,
    )
    table = table_of(queue)
    cursor = queue.connection.execute(
        f"INSERT INTO {table} ({_COLUMNS}) VALUES ({_MARKS})", tuple(row)[1:]
    )
    if is_dead:
        queue.connection.execute(
            f"UPDATE {table} SET status = ? WHERE _id = ?", (schema.DEAD, cursor.lastrowid)
        )
