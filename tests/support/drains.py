"""A process that drains, with answers and clock given by hand."""

import tenacity

from raven_spool.drain import Drain
from raven_spool.model import Failure, Fault, Response, Send, Wait
from raven_spool.policy import Policy
from raven_spool.spool import Spool
from tests.support.spools import HERE, NOW, event, number_of

BACKOFF_SECONDS = 10.0

OK = Response(status=200, headers={})
BROKEN = Response(status=500, headers={})
BAD = Response(status=400, headers={}, body=b"no event")
REFUSED = Failure(fault=Fault.CONNECT, message="connection refused", maybe_delivered=False)
RESET = Failure(fault=Fault.RESET, message="connection reset", maybe_delivered=True)


def limited(text):
    return Response(status=429, headers={"x-sentry-rate-limits": text})


class Process:
    """One process that drains: workers are stepped and clocks turned by hand."""

    def __init__(self, path, *, workers=1, now=NOW, boot_id=None, **options):
        self.now, self.ticks = now, 5000.0
        self.spool = Spool(str(path), fsync="no", keys=options.pop("keys", ()))
        policy = options.pop("policy", None) or Policy(wait=tenacity.wait_fixed(BACKOFF_SECONDS))
        boot_id = boot_id or f"boot {id(self)}"  # each its own: their ticks begin alike
        options.setdefault("boot", lambda: (boot_id, self.ticks))
        self.drain = Drain(self.spool, policy, workers=workers, **options)
        self._waits = False

    def put(self, *numbers, destination=HERE, category="error", created_at=NOW):
        for number in numbers:
            made = event(number, category=category, created_at=created_at)
            assert self.spool.enqueue(made, destination)

    def turn(self, seconds):
        """Time passes."""
        self.now += seconds
        self.ticks += seconds

    def step(self):
        decision = self.drain.step(self.now, self.ticks, waited=self._waits)
        self._waits = isinstance(decision, Wait)
        self.drain.tell()
        return decision

    def send(self):
        decision = self.step()
        assert isinstance(decision, Send), decision
        return decision

    def send_all(self):
        """What goes out at once, each by a worker of its own."""
        sends = []
        while len(sends) < 100 and isinstance(decision := self.step(), Send):
            sends.append(decision)
        return sends

    def answer(self, send, outcome):
        self.drain.answered(send.claimed, outcome, self.now, self.ticks)
        self.drain.tell()

    def deliver_all(self, outcome=OK):
        """One worker to the end; the numbers of what it sent, and what it was told then."""
        numbers = []
        for _ in range(2000):
            decision = self.step()
            if not isinstance(decision, Send):
                return numbers, decision
            numbers.append(number_of(decision.claimed.event))
            self.answer(decision, outcome)
        raise AssertionError("no end")

    def crash(self):
        """The kernel frees its locks; nothing else is tidied up."""
        self.spool.leadership.let_go(clean=False)

    def lane(self, category="", destination=HERE):
        found = [
            lane
            for lane, to in self.spool.all_lanes()
            if lane.category == category and to == destination
        ]
        return found[0]

    def deaths(self):
        claimed = self.spool.claim(self.lane("error"), limit=100, now=self.now)
        return [one.deaths for one in claimed]
