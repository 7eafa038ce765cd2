"""Getting rid of what is too old: a little at a time, so that nobody waits at the gate for it, and
without a pause while there is more, so that a flood of it does not stay."""

from collections import deque
from collections.abc import Callable, Collection, Iterable

from raven_spool.model import Lane
from raven_spool.policy import Policy, lifetime_seconds, times_too_old
from raven_spool.spool import Spool

EXPIRED = "expired before it could be delivered"

_REST_SECONDS = 60.0
_AT_ONCE = 250  # in one statement: applications wait at the gate meanwhile
_LANES_AT_ONCE = 64  # the workers wait meanwhile


class Sweeper:
    """Used under the drain's lock."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._due_ticks = 0.0
        self._lanes: deque[Lane] = deque()  # still to be looked at in this round
        self._after_id = 0  # dead letters up to this one were looked at

    def is_due(self, ticks: float) -> bool:
        return ticks >= self._due_ticks

    def sweep(
        self,
        policy: Policy,
        lanes: Callable[[], Iterable[Lane]],
        at_work: Collection[int],
        now: float,
        ticks: float,
        spared_at: float,
    ) -> int:
        """Bury expired events of these lanes, drop dead letters that have been dead for long.

        Returns how many were buried. `at_work`: events that are in flight; `spared_at`: when the
        clock was set.

        Crash:
            What was committed is buried or dropped, the rest is found again.
        """
        if not self._lanes:
            self._lanes.extend(lanes())
        buried = self._bury(policy, at_work, now, spared_at)
        has_more = self._drop(policy, now, spared_at) or bool(self._lanes)
        self._due_ticks = ticks if has_more else ticks + _REST_SECONDS
        return buried

    def _bury(self, policy: Policy, at_work: Collection[int], now: float, spared_at: float) -> int:
        buried = 0
        for _ in range(_LANES_AT_ONCE):
            if not self._lanes or buried >= _AT_ONCE:
                break
            lane = self._lanes[0]
            times = times_too_old(lifetime_seconds(policy, lane.category), now, spared_at)
            found = self._spool.expired(lane, times, _AT_ONCE)
            ids = sorted(set(found) - set(at_work))
            if ids:
                self._spool.bury(ids, EXPIRED, now)
                buried += len(ids)
            if len(ids) < _AT_ONCE:
                self._lanes.popleft()
        return buried

    def _drop(self, policy: Policy, now: float, spared_at: float) -> bool:
        """One page of the dead letters. Returns whether the next is worth a look at once."""
        times = times_too_old(policy.max_age_seconds, now, spared_at)
        dropped, self._after_id = self._spool.tidy(times, self._after_id, _AT_ONCE)
        return dropped > 0 and self._after_id > 0
