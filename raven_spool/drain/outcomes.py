"""What becomes of an event after an answer, on the disk and on the board."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from raven_spool.drain.board import Board
from raven_spool.drain.clock import Clock
from raven_spool.drain.news import News
from raven_spool.model import (
    Ack,
    Bury,
    Claimed,
    Destination,
    Discard,
    Event,
    Failure,
    Fault,
    Outcome,
    Response,
    Retry,
    Stay,
    Verdict,
)
from raven_spool.policy import Policy, ages_from, backoff_seconds, judge
from raven_spool.protocol import rate_limits
from raven_spool.spool import Spool

UNACKED = 32  # answered events that a crash may send again, beside one a worker
_LEAST_KEY = 6  # a shorter one is no secret, and would make any text unreadable
DEATHS = 3  # flushers and senders that one event may be the end of
_SETTLE_SECONDS = 0.25  # `ls` must not show for long what was delivered

Delivered = Callable[[Event], None]
Died = Callable[[Event, str], None]


@dataclass(slots=True)
class Counts:
    """What became of the sends of one drain."""

    delivered: int = 0
    dead: int = 0
    dropped: int = 0


class Outcomes:
    """Used under the drain's lock."""

    def __init__(
        self,
        spool: Spool,
        policy: Policy,
        board: Board,
        news: News,
        clock: Clock,
        on_delivered: Delivered | None,
        on_dead: Died | None,
    ) -> None:
        self._spool = spool
        self._policy = policy
        self._board = board
        self._news = news
        self._on_delivered = on_delivered
        self._on_dead = on_dead
        self._clock = clock
        self.counts = Counts()
        self.answered: list[Claimed] = []
        self._answered_ticks = 0.0

    def take(
        self, claimed: Claimed, outcome: Outcome, sent_ticks: float, now: float, ticks: float
    ) -> None:
        self._clock.look(now)
        verdict = judge(
            self._policy,
            outcome,
            event=claimed.event,
            attempts=claimed.attempts + 1,
            first_at=ages_from(claimed.event.created_at, self._clock.spared_at),
            last_unanswered=claimed.last_unanswered,
            now=now,
            spared_at=self._clock.spared_at,
        )
        verdict = _without_keys(verdict, claimed.destination)
        if isinstance(verdict, Retry) and self._is_to_blame(claimed, outcome):
            self._blame(claimed, verdict.reason, now)
            return
        if isinstance(verdict, Ack):
            self._keep(claimed, ticks)  # first: should the spool fail us below, it is not resent
        if isinstance(outcome, Response):
            self._obey_limits(claimed, outcome, now)
        trouble = _trouble_in(verdict)
        if trouble is None:
            self._welcome_back(claimed, ticks)
        else:
            is_buried = isinstance(verdict, Bury)
            self._back_off(claimed, trouble, outcome, sent_ticks, now, ticks, is_buried=is_buried)
        self._place(claimed, verdict, now)

    def _is_to_blame(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Whether a sender raised at this event again, and has sent others since: one that raises
        at all of them is broken itself, and must not bury a backlog."""
        takes_others = not self._board.destination(claimed).lane.failures
        return _has_raised(outcome) and bool(claimed.deaths) and takes_others

    def _blame(self, claimed: Claimed, reason: str, now: float) -> None:
        """A sender raised at it again: it is not the destination's doing."""
        deaths = claimed.deaths + 1
        if deaths >= DEATHS:
            self.bury(claimed, f"{reason}, {deaths} times", now)
            return
        rest = backoff_seconds(self._policy, claimed.attempts + 1)
        self._spool.nack(
            claimed, now=now, due=now + rest, what=reason, unanswered=True, deaths=deaths
        )

    def _keep(self, claimed: Claimed, ticks: float) -> None:
        if not self.answered:
            self._answered_ticks = ticks
        self.answered.append(claimed)

    def _place(self, claimed: Claimed, verdict: Verdict, now: float) -> None:
        match verdict:
            case Bury(reason):
                self.bury(claimed, reason, now)
            case Discard(reason):
                self._spool.drop([claimed.id], reason, generation=claimed.generation)
                self.counts.dropped += 1
            case Stay():
                if claimed.deaths:
                    self._spool.note_answer(claimed)
            case Ack() | Retry():
                pass  # kept above, or counted when its destination backed off

    def bury(self, claimed: Claimed, reason: str, now: float) -> None:
        """Make it a dead letter and say so.

        Crash:
            Between the two commits its attempt is counted and it is tried once more.
        """
        self._spool.nack(claimed, now=now, due=0.0, what=reason, unanswered=False)
        self._spool.bury([claimed.id], reason, now, generation=claimed.generation)
        self.counts.dead += 1
        self._news.log_once(
            logging.WARNING, f"{name(claimed)}: an event is now a dead letter: {reason}"
        )
        if self._on_dead is not None:
            callback = self._on_dead
            self._news.add(lambda: callback(claimed.event, reason))

    # -- holds --------------------------------------------------------------------------------

    def _obey_limits(self, claimed: Claimed, response: Response, now: float) -> None:
        for limit in rate_limits(response, now):
            for category in limit.categories or {""}:
                self._spool.hold(
                    self._board.destination(claimed).lane.destination_id,
                    category,
                    now=now,
                    seconds=limit.seconds,
                    hold="limited",
                    reason=f"rate limited for {limit.seconds:g} s",
                )
            self._board.forget_claims_beside(claimed)  # its lane may be closed now

    def _back_off(
        self,
        claimed: Claimed,
        trouble: Retry,
        outcome: Outcome,
        sent_ticks: float,
        now: float,
        ticks: float,
        *,
        is_buried: bool,
    ) -> None:
        """Close the destination. Of requests that fail together only the first counts."""
        destination = self._board.destination(claimed)
        if destination.closed_ticks > sent_ticks:
            return
        if not is_buried:  # else its last attempt is noted there
            rest = backoff_seconds(self._policy, claimed.attempts + 1)
            self._spool.nack(
                claimed,
                now=now,
                due=0.0 if trouble.same_next else now + rest,
                what=trouble.reason,
                unanswered=isinstance(outcome, Failure) and outcome.maybe_delivered,
                deaths=max(1, claimed.deaths) if _has_raised(outcome) else 0,
            )
        failures = destination.lane.failures + 1
        self._spool.hold(
            destination.lane.destination_id,
            "",
            now=now,
            seconds=backoff_seconds(self._policy, failures),
            hold=trouble.hold,
            reason=trouble.reason,
            failures=failures,
        )
        self._board.close(claimed, ticks, is_silent=isinstance(outcome, Failure))
        if failures == 1:
            level = logging.ERROR if trouble.hold == "refused" else logging.WARNING
            self._news.log(level, f"{name(claimed)}: {trouble.reason}; events wait in the spool")

    def _welcome_back(self, claimed: Claimed, ticks: float) -> None:
        """The destination has answered: open it, and let it take more at once."""
        self._board.widen(claimed, ticks)
        lane = self._board.destination(claimed).lane
        if lane.failures:
            self._spool.reopen(lane.destination_id)
            self._board.learn(self._spool.lanes_beside([claimed.lane]) or ())
            self._news.log(logging.INFO, f"{name(claimed)} answers again")

    # -- acks ---------------------------------------------------------------------------------

    def must_settle(self, ticks: float) -> bool:
        answered = len(self.answered)
        late = ticks - self._answered_ticks >= _SETTLE_SECONDS
        return answered >= UNACKED or (answered > 0 and late)

    def settle(self) -> None:
        """Ack what was answered; if the spool fails now, it is tried again."""
        if not self.answered:
            return
        self._spool.ack(self.answered)
        answered, self.answered = self.answered, []
        self.counts.delivered += len(answered)
        if self._on_delivered is not None:
            for claimed in answered:
                self._tell_delivered(self._on_delivered, claimed.event)

    def _tell_delivered(self, callback: Delivered, event: Event) -> None:
        self._news.add(lambda: callback(event))


def _without_keys(verdict: Verdict, destination: Destination) -> Verdict:
    """A server may echo what it was sent. Sentry's own keys look like ids and are hidden by
    policy already; these are the keys of servers that take any word for one."""
    match verdict:
        case Ack():
            return verdict
        case Bury(reason, Retry() as trouble):
            hidden = replace(trouble, reason=_hide_keys(trouble.reason, destination))
            return Bury(_hide_keys(reason, destination), hidden)
    return replace(verdict, reason=_hide_keys(verdict.reason, destination))


def _hide_keys(text: str, destination: Destination) -> str:
    for key in (destination.secret_key, destination.public_key):
        if key and len(key) >= _LEAST_KEY:
            text = text.replace(key, "[hidden]")
    return text


def _has_raised(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.fault is Fault.RAISED


def _trouble_in(verdict: Verdict) -> Retry | None:
    """The destination's trouble, also where it made an event run out of time."""
    match verdict:
        case Retry():
            return verdict
        case Bury(_, trouble):
            return trouble
    return None


def name(claimed: Claimed) -> str:
    return f"{claimed.destination.base_url}, project {claimed.destination.project}"
