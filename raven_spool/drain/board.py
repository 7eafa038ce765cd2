"""What this process knows of lanes and destinations, and which claimed event goes out next.

No disk, no network: `machine` feeds it with what the spool says, `outcomes` with answers.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from raven_spool.model import Claimed, Lane


@dataclass(slots=True)
class Destination:
    """One destination: its stored lane (category ""), and how much it is given at once."""

    lane: Lane
    window: int  # requests at once: 1 while it is probed, doubled by each answer
    in_flight: int = 0
    closed_ticks: float = -1.0  # when an answer last closed it
    heard_ticks: float = -math.inf  # when it last answered
    server: str = ""  # once something was claimed for it

    @property
    def is_failing(self) -> bool:
        """Did not answer, when it was last asked: what goes there now is a probe."""
        return self.lane.failures > 0

    @property
    def has_room(self) -> bool:
        return self.in_flight < self.window


@dataclass(frozen=True, slots=True)
class UnderWay:
    destination: Destination
    sent_ticks: float
    is_probe: bool


class Board:
    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._lanes: dict[int, Lane] = {}
        self._ready: list[int] = []
        self._destinations: dict[int, Destination] = {}
        self._claimed: dict[int, deque[Claimed]] = {}  # by lane; none is empty
        self._first: int | None = None  # the lane whose turn comes before all others
        self._in_flight: dict[int, UnderWay] = {}
        self._has_heard_any = False
        self._silent_ticks: dict[str, float] = {}  # since when a server gives no answer
        self._probes_rest_ticks = 0.0  # until then the others come first
        self._opens: dict[int, tuple[float, float]] = {}

    # -- lanes --------------------------------------------------------------------------------

    def learn(self, lanes: Iterable[Lane]) -> None:
        """Take over what is stored: another process may have changed it."""
        for lane in lanes:
            self._lanes[lane.id] = lane  # none is forgotten: an answer for it may be under way
            if lane.category == "":
                known = self._destinations.get(lane.destination_id)
                if known is None:
                    window = 1 if lane.failures else self._workers
                    self._destinations[lane.destination_id] = Destination(lane, window)
                else:
                    if lane.failures and not known.lane.failures:
                        known.window = 1  # another process may have found that
                    known.lane = lane

    def survey(self, lanes: Collection[Lane]) -> None:
        """Take over all that is stored of lanes with ready events."""
        self.learn(lanes)
        self._ready = [lane.id for lane in lanes if lane.ready]

    def lane(self, lane_id: int | None) -> Lane | None:
        return None if lane_id is None else self._lanes.get(lane_id)

    def open_lanes(self, now: float, ticks: float) -> list[Lane]:
        """Lanes with ready events that nothing holds."""
        return [lane for lane in self.ready_lanes() if self.opens_in(lane, now, ticks) <= 0]

    def is_failing(self, lane: Lane) -> bool:
        """Whether its destination has not answered since it last failed."""
        return self._destinations[lane.destination_id].is_failing

    def is_suspect(self, lane: Lane) -> bool:
        """Whether its destination is failing, or may be: it was never heard of while others were,
        or not since its server fell silent."""
        return self._is_suspect(self._destinations[lane.destination_id])

    def _is_suspect(self, destination: Destination) -> bool:
        if destination.is_failing or not self._has_heard_any:
            return destination.is_failing
        silent_ticks = self._silent_ticks.get(destination.server, -math.inf)
        return destination.heard_ticks <= silent_ticks

    def ready_lanes(self) -> list[Lane]:
        """Those of the last survey."""
        return [self._lanes[lane_id] for lane_id in self._ready]

    def opens_in(self, lane: Lane, now: float, ticks: float) -> float:
        """Seconds until the lane may be used: what holds it, and what holds its destination."""
        destination = self._destinations[lane.destination_id].lane
        return max(self._remaining(lane, now, ticks), self._remaining(destination, now, ticks))

    def _remaining(self, lane: Lane, now: float, ticks: float) -> float:
        """What is left of a hold: the lesser of (open_at - now) and its length, counted from the
        moment it was first seen, so that a clock that jumps can't freeze it."""
        seen_open_at, until = self._opens.get(lane.id, (0.0, 0.0))
        if seen_open_at != lane.open_at:
            until = ticks + lane.hold_seconds
            self._opens[lane.id] = (lane.open_at, until)
        return min(lane.open_at - now, until - ticks)

    def destination(self, claimed: Claimed) -> Destination:
        return self._destination_of(claimed.lane)

    def _destination_of(self, lane_id: int) -> Destination:
        return self._destinations[self._lanes[lane_id].destination_id]

    # -- claims -------------------------------------------------------------------------------

    def add(self, claimed: Claimed) -> None:
        self.destination(claimed).server = claimed.destination.base_url
        self._claimed.setdefault(claimed.lane, deque()).append(claimed)

    def put_first(self, claimed: Claimed) -> None:
        """It is picked before all others, whatever its destination is."""
        self._first = claimed.lane
        behind = [one for one in self._claimed.pop(claimed.lane, ()) if one.id != claimed.id]
        self._claimed = {claimed.lane: deque([claimed, *behind]), **self._claimed}

    def forget_claims(self) -> None:
        """They stay ready in the spool."""
        self._claimed.clear()
        self._first = None

    def forget_claims_beside(self, claimed: Claimed) -> None:
        """Those of its destination."""
        destination = self.destination(claimed)
        for lane_id in [one for one in self._claimed if self._destination_of(one) is destination]:
            del self._claimed[lane_id]

    @property
    def has_claims(self) -> bool:
        return bool(self._claimed)

    @property
    def claims(self) -> int:
        return sum(map(len, self._claimed.values()))

    def may_have_more(self, lane_id: int) -> bool:
        """Whether a lane without claims had more than one event when we last read it."""
        return lane_id not in self._claimed and self._lanes[lane_id].ready > 1

    def pick(self, ticks: float) -> Claimed | None:
        """The next claimed event that may go out; lanes take turns.

        Probes come first, since they are few: `probes_left` bounds them. But they may take long:
        after one that took five seconds the others come first for five.
        """
        lanes = [lane_id for lane_id in self._claimed if self._destination_of(lane_id).has_room]
        if self._first in lanes:
            return self._take(self._first)
        probes = [one for one in lanes if self._is_suspect(self._destination_of(one))]
        others = [one for one in lanes if one not in probes]
        if not self.probes_left:
            probes = []
        in_turn = [*probes, *others] if self.is_time_for_probes(ticks) else [*others, *probes]
        return self._take(in_turn[0]) if in_turn else None

    def _take(self, lane_id: int) -> Claimed:
        self._first = None
        queue = self._claimed.pop(lane_id)
        claimed = queue.popleft()
        if queue:
            self._claimed[lane_id] = queue  # at the end of the round
        return claimed

    def is_time_for_probes(self, ticks: float) -> bool:
        """Whether the others have had as long as the last probe took."""
        return ticks >= self._probes_rest_ticks

    @property
    def probes_left(self) -> int:
        """Half of the workers may be at probes, which a silent server keeps for a whole timeout;
        of one worker all."""
        probes = sum(one.is_probe for one in self._in_flight.values())
        return max(1, self._workers // 2) - probes

    # -- requests under way -------------------------------------------------------------------

    @property
    def in_flight(self) -> Collection[int]:
        return self._in_flight.keys()

    def begin(self, claimed: Claimed, ticks: float) -> None:
        destination = self.destination(claimed)
        under_way = UnderWay(destination, ticks, self._is_suspect(destination))
        # No call between the two, here and in `end`, so that no signal can split them.
        destination.in_flight += 1
        self._in_flight[claimed.id] = under_way

    def end(self, claimed: Claimed, ticks: float = 0.0) -> float:
        """Returns when it was sent. `ticks`: when it was answered, if it was."""
        ended = self._in_flight[claimed.id]
        ended.destination.in_flight -= 1
        del self._in_flight[claimed.id]
        if ended.is_probe:
            rest = ticks + (ticks - ended.sent_ticks)
            self._probes_rest_ticks = max(self._probes_rest_ticks, rest)
        return ended.sent_ticks

    def close(self, claimed: Claimed, ticks: float, *, is_silent: bool) -> None:
        """Its destination failed: one probe at a time. `is_silent`: there was no answer."""
        destination = self.destination(claimed)
        destination.closed_ticks = ticks
        destination.window = 1
        self.forget_claims_beside(claimed)
        if not is_silent:
            self._silent_ticks.pop(destination.server, None)
        elif not destination.is_failing:  # it is news
            self._silent_ticks[destination.server] = ticks

    def widen(self, claimed: Claimed, ticks: float) -> None:
        """It has answered."""
        destination = self.destination(claimed)
        destination.heard_ticks = ticks
        self._silent_ticks.pop(destination.server, None)
        self._has_heard_any = True
        destination.window = min(self._workers, destination.window * 2)
