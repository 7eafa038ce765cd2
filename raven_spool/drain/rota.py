"""Which lanes come next, when there are too many to look at all of them each time.

A look at all lanes begins the rota anew. It costs some microseconds a lane, so that with thousands
of them it must not be taken for each event: between two looks each lane has its turn, and comes
again as long as its events go out and there are more. What is stored of a lane is read again when
its turn comes, so an old look can make a lane late, but never break a hold.
"""

import math
import random
from collections import deque
from collections.abc import Iterable

# A look took 63 ms for 15,000 lanes, 10,000 of them with events: an eighth of the time at most.
_REST_SECONDS_PER_LANE = 60e-6
_LONGEST_REST_SECONDS = 1.0
_FEW_LANES = 256  # so many can be looked at each time
_SUSPECTS_ROUND = 4


class Rota:
    """Used under the drain's lock."""

    def __init__(self) -> None:
        self._lanes: deque[int] = deque()
        self._untried: deque[int] = deque()
        self._failing: deque[int] = deque()
        self._turn = 0
        self._rests_until_ticks = -math.inf

    def begin(
        self,
        lanes: Iterable[int],
        untried: Iterable[int],
        failing: Iterable[int],
        *,
        looked_at: int,
        ticks: float,
    ) -> None:
        """All lanes that are open now. `looked_at`: how many there were, open or not."""
        self._lanes, self._untried, self._failing = map(_shuffle, (lanes, untried, failing))
        rest = looked_at * _REST_SECONDS_PER_LANE if looked_at > _FEW_LANES else 0.0
        self._rests_until_ticks = ticks + min(rest, _LONGEST_REST_SECONDS)

    def due_in(self, ticks: float) -> float:
        """Seconds until the next look."""
        return max(0.0, self._rests_until_ticks - ticks)

    @property
    def has_more(self) -> bool:
        return bool(self._lanes)

    def take(self, count: int) -> list[int]:
        return [self._lanes.popleft() for _ in range(min(count, len(self._lanes)))]

    def take_suspects(self, count: int) -> list[int]:
        """One in four of the failing, so that neither they nor the new wait for all the others."""
        taken: list[int] = []
        while len(taken) < count and (self._untried or self._failing):
            self._turn = (self._turn + 1) % _SUSPECTS_ROUND
            is_theirs = not self._untried or (self._turn == 0 and self._failing)
            taken.append((self._failing if is_theirs else self._untried).popleft())
        return taken

    def put_back(self, lane: int) -> None:
        """There is more in it: it comes last."""
        self._lanes.append(lane)


def _shuffle(lanes: Iterable[int]) -> deque[int]:
    found = list(lanes)
    random.shuffle(found)  # no lane is first each time
    return deque(found)
