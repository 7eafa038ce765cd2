"""Many destinations in one spool, some of them dead: what the live ones are sure of."""

from collections import Counter
from dataclasses import replace

import pytest

from raven_spool.model import Failure, Fault, Send
from tests.support.drains import BACKOFF_SECONDS, BROKEN, OK, REFUSED, limited
from tests.support.spools import HERE, check_ledger, number_of

SILENT = Failure(fault=Fault.TIMEOUT, message="timed out", maybe_delivered=True)
TIMEOUT_SECONDS = 5.0
DEAD = 60


def dead(number):
    return replace(HERE, project=f"dead{number}")


def is_dead(send):
    return send.claimed.destination.project.startswith("dead")


def fail_all(process, outcome=REFUSED):
    for number in range(DEAD):
        process.put(10_000 + number, destination=dead(number))
    for send in process.send_all():
        process.answer(send, outcome)
    while sends := process.send_all():
        for send in sends:
            process.answer(send, outcome)
    process.turn(BACKOFF_SECONDS + 1)


@pytest.mark.parametrize(("workers", "probes"), [(1, 1), (2, 1), (4, 2), (5, 2), (16, 8)])
def test_probes_take_half_of_the_workers_at_most(begin, workers, probes):
    process = begin(workers=workers)
    fail_all(process)

    assert len(process.send_all()) == probes


def test_live_destination_goes_on_beside_silent_ones(begin):
    """Two of four workers sit in probes that nobody answers; the others deliver all the same."""
    process = begin(workers=4)
    fail_all(process)
    process.put(*range(200))
    under_way = process.send_all()
    assert sum(map(is_dead, under_way)) == 2
    live = [send for send in under_way if not is_dead(send)]
    process.answer(live.pop(), OK)

    assert drain_live(process) == 200 - 4
    assert len(live) == 3


def drain_live(process):
    count = 0
    while isinstance(decision := process.step(), Send):
        assert not is_dead(decision)
        process.answer(decision, OK)
        count += 1
    return count


@pytest.mark.parametrize("outcome", [REFUSED, SILENT, BROKEN, limited("60:error")])
def test_one_worker_divides_its_time_between_the_live_and_the_dead(begin, outcome):
    """A silent probe costs 5 s, a live event 10 ms: each has half of the time."""
    process = begin(workers=1)
    fail_all(process)
    process.put(*range(1500))
    spent = Counter()
    for _ in range(1600):
        decision = process.step()
        if not isinstance(decision, Send):
            break
        probe = is_dead(decision)
        seconds = TIMEOUT_SECONDS if probe and outcome is SILENT else 0.01
        process.turn(seconds)
        spent[probe] += seconds
        process.answer(decision, outcome if probe else OK)
        if number_of(decision.claimed.event) == 1499:
            break

    assert spent[True] > 0  # they are noticed when they are back
    assert spent[True] <= spent[False] + TIMEOUT_SECONDS
    check_ledger(process.spool)
