"""The machine that decides what a flusher does next. It sends nothing and waits for nothing.

`step` says Send, Wait or Stop to one worker; `answered` takes what came of a Send. Any number of
workers share one drain; its lock is held for decisions and disk, never for the network, and no
foreign code (logging, callbacks) runs under it.

State of the process, and what moves it:

    parked     does not lead; waits for the bell       bell, 600 s     -> leading or following
    following  another process leads                   0.5 to 1 s      -> leading (that one died)
    leading    claims, sends, acks                     5 s of nothing  -> parked
                                                       epoch moved     -> following
    finishing  as leading, until empty or held         -> stopped
    visited    leads while a send delivers its own     nobody left     -> parked

State of a destination (stored in its lane with category "", shared by all drainers):

    open       as many requests as there are workers   no answer, 408, 5xx    -> backing off
                                                       401 403 404 405 3xx    -> refused
    backing off, refused
               nothing until open_at, then one probe   any other answer       -> ramping
    ramping    1, 2, 4 ... requests at once            all workers busy       -> open
    limited    (any lane) nothing until open_at        the time               -> open

Destinations that fail, or that nobody has heard of, have half of the workers for their probes at
most (of one worker: half of its time), so that any number of dead ones leaves the live ones the
rest.

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
import math
import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from raven_spool.drain.board import Board
from raven_spool.drain.clock import Boot, Clock
from raven_spool.drain.news import News
from raven_spool.drain.outcomes import DEATHS, UNACKED, Counts, Delivered, Died, Outcomes
from raven_spool.drain.rota import Rota
from raven_spool.drain.sweep import EXPIRED, Sweeper
from raven_spool.drain.turns import Turns
from raven_spool.errors import SpoolBusy, SpoolError, came_by_signal
from raven_spool.model import Claimed, Decision, Lane, Outcome, Send, Stop, Wait
from raven_spool.policy import Policy, expires_at
from raven_spool.protocol import build_request
from raven_spool.spool import Spool
from raven_spool.spool.clock import read_boot
from raven_spool.spool.native import make_rlock
from raven_spool.spool.sealing import key_id

_PREFETCHED = 32
_LINGER_SECONDS = 5.0
_PARKED_SECONDS = 600.0
_TICK_SECONDS = 2.0  # a leader that waits says so at least this often
_FOLLOW_SECONDS = 0.5  # and up to twice that: take-over within a second, 100 processes cheap
_TROUBLE_SECONDS = 1.0
_LEAST_WAIT_SECONDS = 0.01
_END_PATIENCE_SECONDS = 2.0


class Drain:
    def __init__(
        self,
        spool: Spool,
        policy: Policy,
        *,
        workers: int,
        order: str = "oldest",
        on_delivered: Delivered | None = None,
        on_dead: Died | None = None,
        can_send: Callable[[str], bool] = lambda sender: True,
        leads_after_seconds: float = 0.0,
        boot: Boot = read_boot,
    ) -> None:
        """`order`: of a lane's events the "oldest" go first, or the "newest".
        `leads_after_seconds`: a process that may not live long begins nothing before.
        `boot`: which start of the machine this is, and the seconds since."""
        self.spool = spool
        self.policy = policy
        self.workers = workers
        self.limit: int | None = None  # sends still allowed; None: no limit
        self._can_send = can_send
        self._lock: Any = make_rlock()  # whose release tells whether it was ours
        self._news = News()
        self._board = Board(workers)
        self._rota = Rota()
        self._turns = Turns(order)
        self._sweeper = Sweeper(spool)
        self._clock = Clock(spool, boot)
        self._outcomes = Outcomes(
            spool, policy, self._board, self._news, self._clock, on_delivered, on_dead
        )
        self._leads_after_seconds = leads_after_seconds
        self._leads_ticks: float | None = None
        self._waiters = 0
        self._waits_until_ticks = 0.0
        self._has_looked = False  # the last refill began with a look at all lanes
        self._passed_over = False  # and met events whose key is not here
        self._careful = 0  # sends that still go one at a time
        self._idle_ticks: float | None = None
        self._finish_ticks: float | None = None
        self._stopping = False
        self._is_salvaging = False  # events of a broken file are coming back

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
                decision = self._wait_or_leave(decision, ticks)
            elif isinstance(decision, Stop) and self._waiters:
                self.spool.ring_bell()  # the one that waits has to see that it is over
        return decision

    def visit(self, hand: list[Send], now: float, ticks: float, *, own: int = 0) -> None:
        """What a worker that never waits sends next is put into `hand`; nothing: it may go.

        Args:
            hand: filled before the event counts as in flight, so that a signal that throws the
                worker out anywhere leaves no event that nobody answers for.
            own: the id of the event that comes before all others. Where its destination is held
                nothing is sent.
        """
        with self._lock:
            try:
                self._decide_visit(hand, now, ticks, own)
            except (SpoolError, OSError) as error:
                self._in_trouble(error)

    def leave(self) -> bool:
        """A worker that never waits goes, and the lead with it if nobody else is at work."""
        with self._lock:
            self._let_go_if_alone()
        return True

    def abandon(self, decision: Decision | None) -> None:
        """A worker will not come back from this decision: its event is ready again."""
        with self._lock:
            match decision:
                case Wait():
                    self._waiters -= 1
                case Send(claimed) if claimed.id in self._board.in_flight:
                    self._board.end(claimed)
            self._let_go_if_alone()

    def _let_go_if_alone(self) -> None:
        try:
            self._settle_or_forget()
        finally:  # an exception came in by a signal: the lead must not stay with nobody
            if not self._waiters and not self._board.in_flight:
                self._board.forget_claims()
                self.spool.leadership.let_go()

    def answered(self, claimed: Claimed, outcome: Outcome, now: float, ticks: float) -> None:
        """Take what came of a Send.

        Crash:
            Before its commit the event is ready and will be sent again.
        """
        with self._lock:
            if claimed.id not in self._board.in_flight:
                return  # its worker was thrown out before it was
            sent_ticks = self._board.end(claimed, ticks)
            try:
                self._outcomes.take(claimed, outcome, sent_ticks, now, ticks)
            except (SpoolError, OSError) as error:
                self._in_trouble(error)

    def tell(self) -> None:
        """Log and call back what the last steps have brought up. To be called after each, where
        the users' own code may run: not in a thread that only touches the disk for a loop."""
        self._news.tell()

    @property
    def has_more(self) -> bool:
        """Whether another worker would find something to send."""
        return self._board.has_claims

    @property
    def leads(self) -> bool:
        return self.spool.leadership.is_held

    @property
    def counts(self) -> Counts:
        return self._outcomes.counts

    def finish(self, ticks: float) -> None:
        """From now on stop when nothing is left, or nothing may be sent before `ticks`."""
        self._finish_ticks = ticks
        self.spool.ring_bell()

    def lead_now(self) -> None:
        """A flush was asked for: the process will live as long as that takes."""
        self._leads_after_seconds, self._leads_ticks = 0.0, None

    def stop(self) -> None:
        """Stop as soon as nothing is in flight, whatever is left."""
        self._stopping = True
        self.spool.ring_bell()

    def end(self) -> None:
        """No worker runs any more: ack what was answered, stop leading.

        If a worker is still in a request, its event counts as in flight: an unclean end. So it is
        where one hangs in the disk; a process must not hang with it at its exit.
        """
        if self._lock._is_owned():
            return  # a signal handler's close, in the middle of a visit
        # As in Store.write: no signal leaves the lock held.
        try:
            if self._lock.acquire(timeout=_END_PATIENCE_SECONDS):
                self._settle_or_forget()
                self.spool.leadership.let_go(clean=not self._board.in_flight)
        finally:
            try:  # noqa: SIM105
                self._lock.release()
            except RuntimeError:
                pass  # not won in time

    def _settle_or_forget(self) -> None:
        try:
            self._outcomes.settle()
        except (SpoolError, OSError) as error:
            self._in_trouble(error)

    # -- deciding -----------------------------------------------------------------------------

    def _decide(self, now: float, ticks: float) -> Decision:
        if self._stopping:
            self._outcomes.settle()
            return Stop("stopped")
        if self._is_too_young(ticks) or not self._lead():
            return self._follow()
        # While events go one at a time each is acked before the next is begun: else one that was
        # delivered counts as dying with the one that kills us, and three times so is buried.
        if self._careful or self._outcomes.must_settle(ticks):
            self._outcomes.settle()
        claimed = self._pick(ticks)
        if claimed is None and self._refill(now, ticks):
            claimed = self._pick(ticks)
        if claimed is not None:
            self._turns.count(claimed.lane)
            return self._send(claimed, now, ticks) or Wait(_LEAST_WAIT_SECONDS)
        self._outcomes.settle()
        if self._passed_over or self._is_salvaging:
            return Wait(_LEAST_WAIT_SECONDS)  # look what stands behind them, or comes back
        return self._rest(now, ticks)

    def _decide_visit(self, hand: list[Send], now: float, ticks: float, own: int) -> None:
        if self._stopping or not self._lead():
            return
        if self._outcomes.must_settle(ticks):
            self._outcomes.settle()
        if own:
            self._claim_own(own, now, ticks)
        if self._board.has_claims or (not own and self._refill(now, ticks)):
            claimed = self._pick(ticks)
            if claimed is not None:
                if claimed.id != own:
                    self._turns.count(claimed.lane)
                self._send(claimed, now, ticks, hand)

    def _is_too_young(self, ticks: float) -> bool:
        if self._leads_ticks is None:
            self._leads_ticks = ticks + self._leads_after_seconds
        is_finishing = self._finish_ticks is not None
        return ticks < self._leads_ticks and not is_finishing

    def _lead(self) -> bool:
        leadership = self.spool.leadership
        if not leadership.is_held:
            self._clock.forget()
            self._idle_ticks = -math.inf  # who takes over and finds nothing to send does not linger
        if not leadership.take():
            self._board.forget_claims()  # they are the next leader's now
            return False
        if leadership.careful:
            self._careful = UNACKED + self.workers
            leadership.careful = False
        self._is_salvaging, text = self.spool.salvage.step()
        if text:
            self._news.log(logging.WARNING, text)
        return True

    def _follow(self) -> Decision:
        """Another process leads: look again soon. It hears the bell before we could, so nobody
        parks on it before that one has let go."""
        if self._finish_ticks is not None:
            return Stop("another process drains this spool")
        return Wait(_FOLLOW_SECONDS * (1 + random.random()), deaf=True)  # noqa: S311

    def _wait_or_leave(self, decision: Wait, ticks: float) -> Decision:
        """One worker waits for all; the others go and are called when there is work."""
        ends_ticks = ticks + decision.seconds
        if self._waiters:
            if ends_ticks < self._waits_until_ticks:
                self.spool.ring_bell()  # it was told to wait longer, before our answer came
            return Stop("another worker waits")
        self._waiters += 1
        self._waits_until_ticks = ends_ticks
        return decision

    def _in_trouble(self, error: Exception) -> Decision:
        """The spool fails us: forget what we hold (it stays ready) and come back later."""
        self._news.log_once(logging.WARNING, f"cannot drain the spool for now: {error}")
        self._board.forget_claims()
        if not isinstance(error, SpoolBusy) and not self._board.in_flight:
            self.spool.leadership.let_go(clean=False)
        if self._finish_ticks is not None:
            return Stop(str(error))
        return Wait(_TROUBLE_SECONDS, deaf=True)

    # -- choosing -----------------------------------------------------------------------------

    def _pick(self, ticks: float) -> Claimed | None:
        if self._careful and self._board.in_flight:
            return None
        claimed = self._board.pick(ticks)
        if claimed is not None and self._board.may_have_more(claimed.lane):
            self._rota.put_back(claimed.lane)
        return claimed

    def _send(
        self, claimed: Claimed, now: float, ticks: float, hand: list[Send] | None = None
    ) -> Send | None:
        try:
            request = build_request(claimed.event, claimed.destination, now)
        except Exception as error:  # whatever a stored row holds, it blocks nobody
            if came_by_signal(error):
                raise
            reason = f"no request can be made of it ({type(error).__name__})"
            self._outcomes.bury(claimed, reason, now)
            return None
        if self._careful:
            self._careful -= 1
            self.spool.note_start(claimed)
            claimed = replace(claimed, deaths=claimed.deaths + 1)
        if self.limit is not None:
            self.limit -= 1
        decision = Send(claimed, request)
        if hand is not None:
            hand.append(decision)
        self._board.begin(claimed, ticks)
        self._idle_ticks = None
        self.spool.leadership.tick(request.timeout_seconds)
        return decision

    def _refill(self, now: float, ticks: float) -> bool:
        """Claim from the open lanes. Returns whether anything was claimed."""
        self._passed_over = False
        self.spool.silence_bell()  # before looking: a ring from now on is for the next look
        self._has_looked = not self._rota.due_in(ticks)
        if self._has_looked and not self._look(now, ticks):
            return False
        self._clock.look(now)
        self._clock.keep()
        if self._sweeper.is_due(ticks):
            self._sweep(now, ticks)
        if lanes := self._rota.take(room := self._make_room()):
            self._claim_turns(lanes, room // len(lanes), now, ticks)
        if self._board.is_time_for_probes(ticks) or not self._board.has_claims:
            # No more than may go out: with a thousand dead destinations the others would not be
            # among the claims.
            suspects = self._rota.take_suspects(self._board.probes_left)
            self._claim_turns(suspects, 1, now, ticks)
        return self._board.has_claims

    def _look(self, now: float, ticks: float) -> bool:
        """Learn what there is to do. Returns whether we still lead."""
        self._board.forget_claims()  # nothing among them may be sent now
        lanes = self.spool.lanes()
        if lanes is None:
            self.spool.leadership.let_go(clean=False)
            return False
        self._board.survey(lanes)
        groups: tuple[list[int], list[int], list[int]] = ([], [], [])
        for lane in self._board.open_lanes(now, ticks):
            which = self._board.is_suspect(lane) + self._board.is_failing(lane)
            groups[which].append(lane.id)
        self._rota.begin(*groups, looked_at=len(lanes), ticks=ticks)
        return True

    def _look_beside(self, lanes: Collection[int]) -> None:
        """Learn what has become of these lanes and their destinations."""
        found = self.spool.lanes_beside(lanes)
        if found is None:
            self.spool.leadership.let_go(clean=False)
        else:
            self._board.learn(found)

    def _make_room(self) -> int:
        """For how many claims. Those in hand may wait for an answer, but not in the others' way."""
        room = _PREFETCHED if self.limit is None else min(_PREFETCHED, self.limit)
        if self._board.claims >= room:
            self._board.forget_claims()
        return room - self._board.claims

    def _claim_turns(self, lanes: Collection[int], limit: int, now: float, ticks: float) -> None:
        """So much of each that is open: the others come again with the next look."""
        if lanes and not self._has_looked:
            self._look_beside(lanes)
        for lane_id in lanes:
            lane = self._board.lane(lane_id)
            if lane is not None and lane.ready and self._board.opens_in(lane, now, ticks) <= 0:
                self._claim_in_order(lane, limit, now)

    def _claim_own(self, own: int, now: float, ticks: float) -> None:
        """Put it first, or drop all claims: where it may not be sent now, nothing is."""
        self._refill(now, ticks)
        lane_id = self.spool.lane_of(own)
        if lane_id is not None:
            self._look_beside([lane_id])
        lane = self._board.lane(lane_id)
        if lane is None or self._board.opens_in(lane, now, ticks) > 0 or own in self._at_work():
            self._board.forget_claims()
        elif self.spool.leadership.is_held:
            self._claim(lane, 1, now, only=own)

    def _claim_in_order(self, lane: Lane, limit: int, now: float) -> None:
        if self._board.is_failing(lane):  # one probe, by another event than the last
            self._claim(lane, 1, now, of_newest=self._turns.newest_first, fresh_first=True)
            return
        claimed: set[int] = set()
        for count, of_newest in self._turns.split(lane.id, limit):
            claimed |= self._claim(lane, count, now, of_newest=of_newest, skip=claimed)

    def _claim(
        self,
        lane: Lane,
        limit: int,
        now: float,
        *,
        only: int | None = None,
        of_newest: bool = False,
        fresh_first: bool = False,
        skip: Collection[int] = (),
    ) -> set[int]:
        put = self._board.add if only is None else self._board.put_first
        found = self.spool.claim(
            lane,
            limit=limit,
            now=now,
            skip={*self._at_work(), *skip},
            only=only,
            of_newest=of_newest,
            fresh_first=fresh_first,
        )
        for claimed in found:
            if claimed.deaths >= DEATHS:
                reason = f"ended the flusher that sent it, {claimed.deaths} times"
                self._outcomes.bury(claimed, reason, now)
            elif not claimed.is_owed_a_try and self._is_too_old(claimed, now):
                self._outcomes.bury(claimed, EXPIRED, now)
            elif key := key_id(claimed.event):
                self._passed_over = True
                text = f"events sealed with key {key} wait: it is not in encryption_key"
                self._news.log_once(logging.WARNING, text)
            elif self._can_send(claimed.destination.sender):
                put(claimed)
        return {one.id for one in found}

    def _is_too_old(self, claimed: Claimed, now: float) -> bool:
        return expires_at(self.policy, claimed.event, self._clock.spared_at) <= now

    def _at_work(self) -> set[int]:
        """Events that are ready on the disk and yet in our hands."""
        return {*self._board.in_flight, *(one.id for one in self._outcomes.answered)}

    def _sweep(self, now: float, ticks: float) -> None:
        """Events too old to send. Those of an open lane are met when claimed, oldest first."""
        fault = self.spool.watchdog.look(now, ticks)
        if fault:
            self._news.log(logging.WARNING, fault)

        def find_lanes() -> list[Lane]:
            everywhere = self._turns.newest_first
            return [
                lane
                for lane in self._board.ready_lanes()
                if everywhere or self._board.opens_in(lane, now, ticks) > 0
            ]

        self.counts.dead += self._sweeper.sweep(
            self.policy, find_lanes, self._at_work(), now, ticks, self._clock.spared_at
        )

    # -- nothing to send ----------------------------------------------------------------------

    def _rest(self, now: float, ticks: float) -> Decision:
        """How long, and is it worth staying?"""
        if self.limit is not None and self.limit <= 0:
            return Stop("limit reached")
        if not self.spool.leadership.is_held:
            return self._follow()
        self.spool.leadership.tick(0.0)
        if self._rota.has_more or not self._has_looked:
            # What stands behind them, or has come since the last look.
            soon = 0.0 if self._rota.has_more else self._rota.due_in(ticks)
            return Wait(max(_LEAST_WAIT_SECONDS, soon))
        seconds = self._next_in(now, ticks)
        tick = _LEAST_WAIT_SECONDS if self._sweeper.is_due(ticks) else _TICK_SECONDS
        if self._board.in_flight:
            return Wait(tick)
        if self._finish_ticks is not None:
            if seconds is None:
                self.spool.watchdog.recover()
                return Stop("empty")
            if ticks + seconds > self._finish_ticks:
                return Stop("held")
        if seconds is None and tick == _TICK_SECONDS:
            return self._idle(ticks)
        self._idle_ticks = None
        return Wait(min(tick, max(_LEAST_WAIT_SECONDS, seconds or 0.0)))

    def _next_in(self, now: float, ticks: float) -> float | None:
        """Seconds until something may be sent, None if nothing is ready."""
        waits = []
        dues = self.spool.next_dues()
        for lane in self._board.ready_lanes():
            if (due := dues.get(lane.id)) is not None:
                # Due, open, and yet not sent: this process has no sender for it.
                retry = due - now if due > now else _TICK_SECONDS
                opens_in = self._board.opens_in(lane, now, ticks)
                waits.append(opens_in if opens_in > 0 else retry)
        return min(waits, default=None)

    def _idle(self, ticks: float) -> Decision:
        if self._idle_ticks is None:
            self._idle_ticks = ticks
        left = self._idle_ticks + _LINGER_SECONDS - ticks
        if left > 0:
            return Wait(left)
        self._idle_ticks = None
        self.spool.watchdog.recover()
        self.spool.leadership.let_go()
        return Wait(_PARKED_SECONDS)
