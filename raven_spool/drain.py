"""The machine that decides what a flusher does next. It sends nothing and waits for nothing.

`step` says Send, Wait or Stop to one worker; `answered` takes what came of a Send. Any number of
workers share one drain; its lock is held for decisions and disk, never for the network, and no
foreign code (logging, callbacks) runs under it.

State of the process, and what moves it:

    parked     does not lead; waits for the bell       bell, 60 s      -> leading or following
    following  another process leads                   0.5 to 1 s      -> leading (that one died)
    leading    claims, sends, acks                     5 s of nothing  -> parked
                                                       epoch moved     -> following
    finishing  as leading, until empty or held         -> stopped

State of a destination (stored in its lane with category "", shared by all drainers):

    open       as many requests as there are workers   no answer, 408, 5xx    -> backing off
                                                       401 403 404 405 3xx    -> refused
    backing off, refused
               nothing until open_at, then one probe   any other answer       -> ramping
    ramping    1, 2, 4 ... requests at once            all workers busy       -> open
    limited    (any lane) nothing until open_at        the time               -> open

Crash matrix; "in memory" is everything this module holds:

    claimed, unsent               in memory     ready again; in order
    in flight                     in memory     resent; after an unclean end one at a time, each
                                                counted first, and buried at its third death
    answered 2xx, not acked       in memory     resent: at most 32 + workers such events
    acked                         row deleted   nothing
    refused for good, not buried  in memory     resent, then buried
    back-off or limit, not stored in memory     one more request
"""

import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from raven_spool.errors import SpoolError
from raven_spool.model import (
    Ack,
    Bury,
    Claimed,
    Decision,
    Discard,
    Event,
    Failure,
    Lane,
    Outcome,
    Response,
    Retry,
    Send,
    Stay,
    Stop,
    Verdict,
    Wait,
)
from raven_spool.policy import Policy, backoff_seconds, expires_at, judge
from raven_spool.protocol import build_request, rate_limits
from raven_spool.spool import Spool
from raven_spool.spool.native import make_lock

log = logging.getLogger("raven.spool")

UNACKED = 32  # answered events that a crash may send again, beside one a worker
_PREFETCHED = 32
_SETTLE_SECONDS = 0.25  # `ls` must not show for long what was delivered
_LINGER_SECONDS = 5.0
_PARKED_SECONDS = 60.0
_TICK_SECONDS = 2.0  # a leader that waits says so at least this often
_FOLLOW_SECONDS = 0.5  # and up to twice that: take-over within a second, 100 processes cheap
_TROUBLE_SECONDS = 1.0
_DEATHS = 3
_SWEEP_SECONDS = 60.0
_SWEEP_EVENTS = 1000

Delivered = Callable[[Event], None]
Died = Callable[[Event, str], None]


@dataclass(slots=True)
class _Destination:
    """What this process knows of one destination beyond its stored lane."""

    lane: Lane
    window: int  # requests at once
    in_flight: int = 0
    moved_ticks: float = -1.0  # when an answer last closed it


@dataclass(slots=True)
class _Queue:
    lane: Lane
    claimed: deque[Claimed] = field(default_factory=deque)


@dataclass(slots=True)
class Counts:
    """What became of the sends of this drain."""

    delivered: int = 0
    dead: int = 0
    dropped: int = 0
    failed: int = 0
    last_failure: str = ""


class Drain:
    def __init__(
        self,
        spool: Spool,
        policy: Policy,
        *,
        workers: int,
        on_delivered: Delivered | None = None,
        on_dead: Died | None = None,
        can_send: Callable[[str], bool] = lambda sender: True,
    ) -> None:
        self.spool = spool
        self.policy = policy
        self.workers = workers
        self.counts = Counts()
        self.limit: int | None = None  # sends still allowed; None: no limit
        self._on_delivered = on_delivered
        self._on_dead = on_dead
        self._can_send = can_send
        self._lock = make_lock()
        self._queues: dict[int, _Queue] = {}
        self._destinations: dict[int, _Destination] = {}
        self._in_flight: dict[int, tuple[Claimed, float]] = {}
        self._answered: list[Claimed] = []
        self._answered_ticks = 0.0
        self._opens: dict[int, tuple[float, float]] = {}
        self._notes: list[Callable[[], None]] = []
        self._told: set[str] = set()
        self._waiters = 0
        self._careful = 0
        self._idle_ticks: float | None = None
        self._sweep_ticks = 0.0
        self._was_deaf = False
        self._finish_ticks: float | None = None
        self._stopping = False

    # -- what workers call --------------------------------------------------------------------

    def step(self, now: float, ticks: float, *, waited: bool = False) -> Decision:
        """What this worker does next.

        Args:
            now: Unix time in seconds, for what is stored.
            ticks: monotonic seconds, for what is waited for.
            waited: this worker's last decision was a Wait.
        """
        with self._lock:
            self._waiters -= waited
            try:
                decision = self._decide(now, ticks)
            except (SpoolError, OSError) as error:
                decision = self._in_trouble(error)
            if isinstance(decision, Wait):
                decision = self._wait_or_leave(decision)
        self._tell()
        return decision

    def answered(self, claimed: Claimed, outcome: Outcome, now: float, ticks: float) -> None:
        """Take what came of a Send.

        Crash:
            Before its commit the event is ready and will be sent again.
        """
        with self._lock:
            _, sent_ticks = self._in_flight.pop(claimed.id)
            self._destination(claimed).in_flight -= 1
            try:
                self._judge(claimed, outcome, sent_ticks, now, ticks)
            except (SpoolError, OSError) as error:
                self._in_trouble(error)
        self._tell()

    @property
    def has_more(self) -> bool:
        """Whether another worker would find something to send."""
        return any(queue.claimed for queue in self._queues.values())

    def finish(self, ticks: float) -> None:
        """From now on stop when nothing is left, or nothing may be sent before `ticks`."""
        self._finish_ticks = ticks
        self.spool.ring_bell()

    def stop(self) -> None:
        """Stop as soon as nothing is in flight, whatever is left."""
        self._stopping = True
        self.spool.ring_bell()

    def end(self) -> None:
        """No worker runs any more: ack what was answered, stop leading.

        If a worker is still in a request, its event counts as in flight: an unclean end.
        """
        with self._lock:
            try:
                self._settle()
            except (SpoolError, OSError) as error:
                self._in_trouble(error)
            self.spool.leadership.let_go(clean=not self._in_flight)
        self._tell()

    # -- deciding -----------------------------------------------------------------------------

    def _decide(self, now: float, ticks: float) -> Decision:
        if self._stopping:
            return self._leave("stopped")
        if not self.spool.leadership.take():
            return self._follow()
        if self.spool.leadership.careful:
            self._careful = UNACKED + self.workers
            self.spool.leadership.careful = False
        if self._must_settle(ticks):
            self._settle()
        claimed = self._pick(ticks)
        if claimed is None and self._refill(now, ticks):
            claimed = self._pick(ticks)
        if claimed is not None:
            return self._send(claimed, now, ticks)
        self._settle()
        return self._rest(now, ticks)

    def _leave(self, reason: str) -> Stop:
        self._settle()
        return Stop(reason)

    def _follow(self) -> Decision:
        """Another process leads: look again soon while something is ready, then park."""
        if self._finish_ticks is not None:
            return Stop("another process drains this spool")
        seconds = _FOLLOW_SECONDS * (1 + random.random())  # noqa: S311
        if self._was_deaf and not self.spool.stats()["ready"]:
            self._was_deaf = False
            return Wait(_PARKED_SECONDS)
        self._was_deaf = True
        return Wait(seconds, deaf=True)

    def _wait_or_leave(self, decision: Wait) -> Decision:
        """One worker waits for all; the others go and are called when there is work."""
        if self._waiters:
            return Stop("another worker waits")
        self._waiters += 1
        return decision

    def _in_trouble(self, error: Exception) -> Decision:
        """The spool fails us: forget what we hold (it stays ready) and come back later."""
        self._tell_once(logging.WARNING, f"cannot drain the spool for now: {error}")
        self._forget_claims()
        self.spool.leadership.let_go(clean=False)
        if self._finish_ticks is not None:
            return Stop(str(error))
        return Wait(_TROUBLE_SECONDS, deaf=True)

    def _forget_claims(self) -> None:
        for queue in self._queues.values():
            queue.claimed.clear()

    # -- choosing -----------------------------------------------------------------------------

    def _pick(self, ticks: float) -> Claimed | None:
        """The next claimed event that may go out, lanes taking turns."""
        if self._careful and self._in_flight:
            return None
        for lane_id, queue in list(self._queues.items()):
            destination = self._destinations[queue.lane.destination_id]
            if queue.claimed and destination.in_flight < destination.window:
                self._queues[lane_id] = self._queues.pop(lane_id)  # to the end of the round
                return queue.claimed.popleft()
        return None

    def _send(self, claimed: Claimed, now: float, ticks: float) -> Decision:
        request = build_request(claimed.event, claimed.destination, now)
        if self._careful:
            self._careful -= 1
            self.spool.note_start(claimed)
        if self.limit is not None:
            self.limit -= 1
        self._destination(claimed).in_flight += 1
        self._in_flight[claimed.id] = (claimed, ticks)
        self._idle_ticks = None
        self.spool.leadership.tick(request.timeout_seconds)
        return Send(claimed, request)

    def _refill(self, now: float, ticks: float) -> bool:
        """Claim from the open lanes. Returns whether anything was claimed."""
        self.spool.silence_bell()  # before looking: a ring from now on is for the next look
        if self.limit is not None and self.limit <= 0:
            return False
        lanes = self.spool.lanes()
        if lanes is None:
            self._forget_claims()
            self.spool.leadership.let_go(clean=False)
            return False
        self._learn(lanes)
        if ticks >= self._sweep_ticks:
            self._sweep(now, ticks)
        open_lanes = [
            lane for lane in lanes if lane.ready and self._opens_in(lane, now, ticks) <= 0
        ]
        share = max(1, self._room() // max(1, len(open_lanes)))
        random.shuffle(open_lanes)  # no lane is first each time
        for lane in open_lanes[: self._room()]:
            self._claim(lane, share, now)
        return self.has_more

    def _room(self) -> int:
        return _PREFETCHED if self.limit is None else min(_PREFETCHED, self.limit)

    def _learn(self, lanes: list[Lane]) -> None:
        """Take over what is stored: another process may have changed it."""
        for lane in lanes:
            self._queues.setdefault(lane.id, _Queue(lane)).lane = lane
            if lane.category == "":
                known = self._destinations.get(lane.destination_id)
                if known is None:
                    window = 1 if lane.failures else self.workers
                    self._destinations[lane.destination_id] = _Destination(lane, window)
                else:
                    known.lane = lane
        for queue in self._queues.values():
            queue.claimed.clear()  # nothing that may be sent is in them

    def _claim(self, lane: Lane, limit: int, now: float) -> None:
        skip = {*self._in_flight, *(one.id for one in self._answered)}
        for claimed in self.spool.claim(lane, limit=limit, now=now, skip=skip):
            if not self._can_send(claimed.destination.sender):
                continue
            if claimed.deaths >= _DEATHS:
                self._bury(claimed, f"ended the flusher that sent it, {claimed.deaths} times", now)
            elif expires_at(self.policy, claimed.event) <= now:
                self._bury(claimed, "expired before it could be delivered", now)
            else:
                self._queues[lane.id].claimed.append(claimed)

    def _sweep(self, now: float, ticks: float) -> None:
        """Events too old to send, also in lanes that are held."""
        self._sweep_ticks = ticks + _SWEEP_SECONDS
        ids = self.spool.expired(now - self.policy.max_age_seconds, _SWEEP_EVENTS)
        ids = [key for key in ids if key not in self._in_flight]
        if ids:
            self.spool.bury(ids, "expired before it could be delivered", now)
            self.counts.dead += len(ids)

    # -- holds --------------------------------------------------------------------------------

    def _opens_in(self, lane: Lane, now: float, ticks: float) -> float:
        """Seconds until the lane may be used, itself and its destination."""
        destination = self._destinations[lane.destination_id].lane
        return max(self._remaining(lane, now, ticks), self._remaining(destination, now, ticks))

    def _remaining(self, lane: Lane, now: float, ticks: float) -> float:
        """What is left of a hold: the lesser of (open_at - now) and its length, counted from the
        moment it was first seen, so that a clock that jumps can't freeze it."""
        seen_open_at, until = self._opens.get(lane.id, (0.0, 0.0))
        if seen_open_at != lane.open_at:
            until = ticks + min(lane.open_at - now, lane.hold_seconds)
            self._opens[lane.id] = (lane.open_at, until)
        return until - ticks

    def _rest(self, now: float, ticks: float) -> Decision:
        """Nothing can be sent: how long, and is it worth staying?"""
        if self.limit is not None and self.limit <= 0:
            return Stop("limit reached")
        if not self.spool.leadership.is_held:
            return self._follow()
        opens = [self._ready_in(queue.lane, now, ticks) for queue in self._queues.values()]
        seconds = min((wait for wait in opens if wait is not None), default=None)
        self.spool.leadership.tick(0.0)
        if self._finish_ticks is not None and not self._in_flight:
            if seconds is None:
                return Stop("empty")
            if ticks + seconds > self._finish_ticks:
                return Stop("held")
        if seconds is None and not self._in_flight:
            return self._idle(ticks)
        self._idle_ticks = None
        return Wait(
            min(_TICK_SECONDS, max(0.01, seconds if seconds is not None else _TICK_SECONDS))
        )

    def _ready_in(self, lane: Lane, now: float, ticks: float) -> float | None:
        """Seconds until something of this lane may be sent, None if it has nothing."""
        if not lane.ready:
            return None
        opens_in = self._opens_in(lane, now, ticks)
        due = self.spool.next_due(lane)
        if due is None or opens_in > 0:
            return None if due is None else opens_in
        return max(due - now, _TICK_SECONDS if due <= now else 0.0)

    def _idle(self, ticks: float) -> Decision:
        if self._idle_ticks is None:
            self._idle_ticks = ticks
        left = self._idle_ticks + _LINGER_SECONDS - ticks
        if left > 0:
            return Wait(left)
        self._idle_ticks = None
        self.spool.leadership.let_go()
        return Wait(_PARKED_SECONDS)

    # -- judging ------------------------------------------------------------------------------

    def _destination(self, claimed: Claimed) -> _Destination:
        return self._destinations[self._queues[claimed.lane].lane.destination_id]

    def _judge(
        self, claimed: Claimed, outcome: Outcome, sent_ticks: float, now: float, ticks: float
    ) -> None:
        if isinstance(outcome, Response):
            self._obey_limits(claimed, outcome, now)
        verdict = judge(
            self.policy,
            outcome,
            event=claimed.event,
            attempts=claimed.attempts + 1,
            first_at=claimed.event.created_at,
            last_unanswered=claimed.last_unanswered,
            now=now,
        )
        trouble = verdict if isinstance(verdict, Retry) else None
        if isinstance(verdict, Bury):
            trouble = verdict.trouble
        if trouble is not None:
            self._back_off(claimed, trouble, outcome, sent_ticks, now, ticks)
        if verdict is not trouble:
            self._place(claimed, verdict, now, ticks)
        if trouble is None:
            self._welcome_back(claimed)

    def _place(self, claimed: Claimed, verdict: Verdict, now: float, ticks: float) -> None:
        match verdict:
            case Ack():
                if not self._answered:
                    self._answered_ticks = ticks
                self._answered.append(claimed)
            case Bury(reason):
                self._bury(claimed, reason, now)
            case Discard(reason):
                self.spool.drop([claimed.id], reason)
                self.counts.dropped += 1
            case Stay(reason):
                self.counts.last_failure = reason
                if claimed.deaths:
                    self.spool.note_answer(claimed)

    def _obey_limits(self, claimed: Claimed, response: Response, now: float) -> None:
        for limit in rate_limits(response, now):
            for category in limit.categories or {""}:
                self.spool.hold(
                    self._queues[claimed.lane].lane.destination_id,
                    category,
                    now=now,
                    seconds=limit.seconds,
                    hold="limited",
                    reason=f"rate limited for {limit.seconds:g} s",
                )
            self._forget_claims()  # some may be of a lane that was closed just now

    def _back_off(
        self,
        claimed: Claimed,
        verdict: Retry,
        outcome: Outcome,
        sent_ticks: float,
        now: float,
        ticks: float,
    ) -> None:
        """Close the destination. Of requests that fail together only the first counts."""
        destination = self._destination(claimed)
        self.counts.failed += 1
        self.counts.last_failure = verdict.reason
        if destination.moved_ticks > sent_ticks:
            return
        failures = destination.lane.failures + 1
        self.spool.nack(
            claimed,
            now=now,
            due=0.0
            if verdict.same_next
            else now + backoff_seconds(self.policy, claimed.attempts + 1),
            what=verdict.reason,
            unanswered=isinstance(outcome, Failure) and outcome.maybe_delivered,
        )
        self.spool.hold(
            destination.lane.destination_id,
            "",
            now=now,
            seconds=backoff_seconds(self.policy, failures),
            hold=verdict.hold,
            reason=verdict.reason,
            failures=failures,
        )
        destination.moved_ticks = ticks
        destination.window = 1
        self._forget_claims()
        if failures == 1:
            level = logging.ERROR if verdict.hold == "refused" else logging.WARNING
            self._note(level, f"{_name(claimed)}: {verdict.reason}; events wait in the spool")

    def _welcome_back(self, claimed: Claimed) -> None:
        """The destination has answered: open it, and let it take more at once."""
        destination = self._destination(claimed)
        if destination.window < self.workers:
            destination.window = min(self.workers, destination.window * 2)
        if destination.lane.failures:
            self.spool.reopen(destination.lane.destination_id)
            destination.lane = self._fresh_lane(destination.lane)
            self._note(logging.INFO, f"{_name(claimed)} answers again")

    def _fresh_lane(self, lane: Lane) -> Lane:
        lanes = self.spool.lanes() or []
        return next((one for one in lanes if one.id == lane.id), lane)

    def _bury(self, claimed: Claimed, reason: str, now: float) -> None:
        self.spool.nack(claimed, now=now, due=0.0, what=reason, unanswered=False)
        self.spool.bury([claimed.id], reason, now)
        self.counts.dead += 1
        self._tell_once(
            logging.WARNING, f"{_name(claimed)}: an event is now a dead letter: {reason}"
        )
        if self._on_dead is not None:
            callback = self._on_dead
            self._notes.append(lambda: callback(claimed.event, reason))

    # -- acks ---------------------------------------------------------------------------------

    def _must_settle(self, ticks: float) -> bool:
        answered = len(self._answered)
        return answered >= UNACKED or (
            answered > 0 and ticks - self._answered_ticks >= _SETTLE_SECONDS
        )

    def _settle(self) -> None:
        """Ack what was answered; if the spool fails now, it is tried again."""
        if not self._answered:
            return
        self.spool.ack(self._answered)
        answered, self._answered = self._answered, []
        self.counts.delivered += len(answered)
        if self._on_delivered is not None:
            callback = self._on_delivered
            self._notes.extend(
                lambda event=one.event: callback(event)  # type: ignore[misc]
                for one in answered
            )

    # -- telling ------------------------------------------------------------------------------

    def _note(self, level: int, text: str) -> None:
        self._notes.append(lambda: log.log(level, "%s", text))

    def _tell_once(self, level: int, text: str) -> None:
        if text not in self._told and len(self._told) < 1000:
            self._told.add(text)
            self._note(level, text)

    def _tell(self) -> None:
        """Log and call back, outside the lock; what users' code raises is theirs to read."""
        while self._notes:
            note = self._notes.pop(0)
            try:
                note()
            except Exception:
                log.exception("a callback failed")


def _name(claimed: Claimed) -> str:
    destination = claimed.destination
    return f"{destination.base_url}, project {destination.project}"
