"""From which end of a lane the next event comes: order="newest", and what keeps the oldest going.

The first of each eight sends of a lane is its oldest event, the others are its newest. So under
any inflow the oldest has seven sends before it at most. What counts are sends: claims that were
forgotten, or a process that ends after one event, can't make it miss its turn.
"""

from collections.abc import Iterator

_ROUND = 8


class Turns:
    def __init__(self, order: str) -> None:
        self.newest_first = order == "newest"
        self._sent: dict[int, int] = {}  # by lane, in this round

    def split(self, lane_id: int, limit: int) -> Iterator[tuple[int, bool]]:
        """What to claim one after another: how many, and whether of the newest."""
        if not self.newest_first:
            yield limit, False
            return
        sent = self._sent.get(lane_id, 0)
        limit = min(limit, _ROUND - sent)  # the next round begins with the oldest again
        if sent == 0:
            yield 1, False
            limit -= 1
        if limit:
            yield limit, True

    def count(self, lane_id: int) -> None:
        """One is sent."""
        if self.newest_first:
            self._sent[lane_id] = (self._sent.get(lane_id, 0) + 1) % _ROUND
