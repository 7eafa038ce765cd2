"""Hundreds of destinations in one spool: what a look at all of them must not be needed for."""

from dataclasses import replace

from raven_spool.model import Failure, Fault, Send, Wait
from tests.support.drains import BACKOFF_SECONDS, OK, REFUSED
from tests.support.spools import HERE, NOW, check_ledger, number_of

MANY = 400
REST_SECONDS = 1.0  # between two looks at most
SILENT = Failure(fault=Fault.TIMEOUT, message="timed out", maybe_delivered=True)


def other(number, **changes):
    return replace(HERE, base_url=f"http://other{number}.invalid", **changes)


def put_many(process, count=MANY, **changes):
    for number in range(count):
        process.put(10_000 + number, destination=other(number, **changes))


def project_of(send):
    return send.claimed.destination.base_url


def send_within(process, seconds):
    """The next send of one worker, which waits so long at most."""
    waited = 0.0
    while not isinstance(decision := process.step(), Send):
        assert isinstance(decision, Wait)
        waited += decision.seconds
        assert waited <= seconds, "no send"
        process.turn(decision.seconds)
    return decision


def test_all_of_hundreds_are_delivered_each_once(begin):
    process = begin()
    put_many(process)
    numbers = set()
    for _ in range(MANY):
        send = send_within(process, REST_SECONDS)
        numbers.add(number_of(send.claimed.event))
        process.answer(send, OK)

    assert len(numbers) == MANY
    process.turn(REST_SECONDS)
    assert isinstance(process.step(), Wait)
    assert check_ledger(process.spool)["delivered"] == MANY


def test_holds_that_another_process_stores_between_two_looks_are_kept(begin):
    process, tool = begin(), begin()
    put_many(process)
    process.answer(process.send(), OK)
    held = {other(number) for number in range(0, MANY, 2)}
    for lane, destination in tool.spool.all_lanes():
        if not lane.category and destination in held:
            hold_lane(tool, lane)
    broken = 0
    while isinstance(decision := process.step(), Send):
        broken += decision.claimed.destination in held
        process.answer(decision, OK)

    assert broken < 32  # those that were in hand
    assert check_ledger(process.spool)["ready"] >= MANY / 2 - 32


def hold_lane(tool, lane):
    tool.spool.hold(
        lane.destination_id, "", now=NOW, seconds=60, hold="limited", reason="rate limited"
    )


def test_event_for_a_lane_that_was_empty_at_the_last_look_waits_for_a_second_at_most(begin):
    process = begin()
    put_many(process)
    process.answer(process.send(), REFUSED)
    process.put(1)
    for _ in range(MANY + 1):
        send = send_within(process, REST_SECONDS)
        if number_of(send.claimed.event) == 1:
            return
        process.answer(send, REFUSED)
    raise AssertionError("it was not sent")


def test_lane_with_a_backlog_goes_on_between_two_looks(begin):
    """Hundreds that are held are looked at once a second; the live one must not wait for that."""
    process = begin()
    put_many(process)
    for _ in range(MANY):
        process.answer(process.send(), REFUSED)
    process.put(*range(300))
    process.turn(REST_SECONDS)
    for number in range(300):
        send = process.send()
        assert number_of(send.claimed.event) == number
        process.answer(send, OK)


def test_failure_of_one_destination_leaves_the_claims_of_others(begin):
    process = begin()
    put_many(process, 20)
    reads = []
    process.spool._read(lambda queue: queue.connection.set_trace_callback(reads.append))
    for _ in range(20):
        process.answer(process.send(), REFUSED)
    process.spool._read(lambda queue: queue.connection.set_trace_callback(None))

    assert sum("json_each" in read and "data" in read for read in reads) <= 20


def test_events_that_nobody_here_can_send_do_not_stand_in_the_way(begin):
    """By lot, 32 of them at a time, they did: a tick of two seconds for each such draw."""
    process = begin(can_send=lambda sender: sender == "urllib")
    put_many(process, sender="their.Own")
    process.put(1)

    assert number_of(send_within(process, REST_SECONDS).claimed.event) == 1


def test_those_never_heard_of_have_half_of_the_workers_at_most(begin):
    process = begin(workers=4)
    process.put(0)
    process.answer(process.send(), OK)
    put_many(process, 60)
    process.put(*range(1, 40))
    under_way = process.send_all()

    assert sum(project_of(send) != HERE.base_url for send in under_way) == 2
    assert len(under_way) == 2 + 4


def test_first_of_all_destinations_has_all_workers(begin):
    process = begin(workers=4)
    process.put(*range(10))

    assert len(process.send_all()) == 4


def test_silence_of_a_server_makes_its_other_projects_suspects(begin):
    """A thousand projects that had all been well took a timeout of any worker each."""
    process = begin(workers=4)
    dead = [replace(HERE, base_url="http://dead.invalid", project=str(n)) for n in range(60)]
    for number, destination in enumerate([HERE, *dead]):
        process.put(number, destination=destination)
    for _ in range(61):
        process.answer(process.send(), OK)
    for number, destination in enumerate(dead):
        process.put(100 + number, destination=destination)
    process.turn(5)
    process.answer(process.send(), SILENT)
    process.put(*range(1000, 1040))
    under_way = process.send_all()

    assert sum(project_of(send) != HERE.base_url for send in under_way) == 2


NEW = replace(HERE, project="new")


def refuse_next(process, count):
    """The numbers of the events that the next probes were made with."""
    numbers = []
    for _ in range(count):
        numbers.append(number_of((send := process.send()).claimed.event))
        process.answer(send, REFUSED)
    return numbers


def test_new_destination_does_not_wait_for_all_failing_ones(begin):
    process = begin()
    process.put(0)
    process.answer(process.send(), OK)
    put_many(process, 60)
    refuse_next(process, 60)
    process.turn(BACKOFF_SECONDS + 1)
    process.put(1, destination=NEW)

    assert 1 in refuse_next(process, 2)


def test_failing_destination_does_not_wait_for_all_new_ones(begin):
    process = begin()
    process.put(0)
    process.answer(process.send(), OK)
    process.put(1, destination=NEW)
    refuse_next(process, 1)
    process.turn(BACKOFF_SECONDS + 1)
    put_many(process, 60)

    assert 1 in refuse_next(process, 4)
