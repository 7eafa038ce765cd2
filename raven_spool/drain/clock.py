"""Whether the wall clock was set: nothing may expire because of that, or wait for longer.

A machine without a battery for its clock starts in 1970 and learns the time a minute later; then
every event that waits would be fifty years old at once. So the leader keeps an anchor in the
spool: the wall clock beside the time since the machine started. Where the first has gone a minute
further than the second, it was set forward. What was captured before counts as captured then.
Where it has stayed a minute behind, it was set back. What waits until a time then waits no longer
than it was told to at first.
"""

from collections.abc import Callable

from raven_spool.spool import Spool
from raven_spool.spool.clock import Anchor

_STEP_SECONDS = 60.0  # a smaller one makes nothing expire that was not about to
_ANCHOR_SECONDS = 60.0

Boot = Callable[[], tuple[str, float]]


def advance(anchor: Anchor | None, boot_id: str, up_seconds: float, now: float) -> Anchor:
    """The anchor of this instant. From one start of the machine to the next nothing can be said:
    it may have been off for a year."""
    spared_at = anchor.spared_at if anchor else 0.0
    if anchor and boot_id and anchor.boot_id == boot_id:
        step = (now - anchor.at) - (up_seconds - anchor.up_seconds)
        if step > _STEP_SECONDS:
            spared_at = now
    # After a step back it may lie ahead, and would spare what is yet to come.
    spared_at = min(spared_at, now)
    return Anchor(boot_id=boot_id, up_seconds=up_seconds, at=now, spared_at=spared_at)


def was_set_back(before: Anchor, after: Anchor) -> bool:
    """Also from one start of the machine to the next, if it was by more than it was off."""
    is_same = before.boot_id and before.boot_id == after.boot_id
    passed = after.up_seconds - before.up_seconds if is_same else 0.0
    return after.at - before.at < passed - _STEP_SECONDS


class Clock:
    """Used under the drain's lock."""

    def __init__(self, spool: Spool, boot: Boot) -> None:
        self._spool = spool
        self._boot = boot
        self._anchor: Anchor | None = None
        self._is_stored = True
        self._was_set_back = False  # since it was stored

    @property
    def spared_at(self) -> float:
        return self._anchor.spared_at if self._anchor else 0.0

    def forget(self) -> None:
        """Another process may have led meanwhile."""
        self._anchor = None
        self._is_stored, self._was_set_back = True, False

    def look(self, now: float) -> None:
        """To be called before anything is found too old: costs microseconds. It writes nothing, so
        that no trouble of the disk comes between an answer and its event."""
        known = self._anchor or self._spool.anchor()
        fresh = advance(known, *self._boot(), now)
        set_back = known is not None and was_set_back(known, fresh)
        if known is None or set_back or _is_news(known, fresh):
            known = fresh
            self._is_stored = False
            self._was_set_back |= set_back
        self._anchor = known

    def keep(self) -> None:
        """A commit a minute, and one when the clock was set.

        Crash:
            Before the commit the next leader finds the same.
        """
        if self._is_stored or self._anchor is None:
            return
        if self._was_set_back:
            self._spool.shorten_waits(self._anchor)
        else:
            self._spool.set_anchor(self._anchor)
        self._is_stored, self._was_set_back = True, False


def _is_news(known: Anchor, fresh: Anchor) -> bool:
    return (
        fresh.spared_at != known.spared_at
        or fresh.boot_id != known.boot_id
        or fresh.up_seconds - known.up_seconds >= _ANCHOR_SECONDS
    )
