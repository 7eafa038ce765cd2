"""A worker that never waits: the sending thread itself, on a drain that others may share."""

import pytest

from raven_spool.model import Send, Stop, Wait
from tests.support.drains import BROKEN, OK, REFUSED, limited
from tests.support.spools import HERE, THERE, event, number_of


def put(process, number, **where):
    return process.spool.enqueue(event(number), where.get("destination", HERE))


def visit(process, own=0):
    """What is in its hand then: the number of one event, or None."""
    hand = []
    process.drain.visit(hand, process.now, process.ticks, own=own)
    return hand[0] if hand else None


def number(send):
    return None if send is None else number_of(send.claimed.event)


def test_visit_sends_its_own_event_first_and_then_the_oldest(begin):
    process = begin(workers=4)
    process.put(1, 2, 3)
    order = []
    send = visit(process, put(process, 4))
    while send is not None:
        order.append(number(send))
        process.answer(send, OK)
        send = visit(process)
    process.drain.leave()
    assert order == [4, 1, 2, 3]
    assert process.spool.stats()["delivered"] == 4


def test_visit_of_many_older_ones_takes_them_all(begin):
    process = begin(workers=1)
    process.put(*range(1, 81))
    order = []
    send = visit(process, put(process, 81))
    while send is not None:
        order.append(number(send))
        process.answer(send, OK)
        send = visit(process)
    process.drain.leave()
    assert order == [81, *range(1, 81)]


@pytest.mark.parametrize("outcome", [REFUSED, BROKEN, limited("60::key")], ids=["a", "b", "c"])
def test_visit_sends_nothing_while_its_destination_is_held(begin, outcome):
    process = begin(workers=4)
    send = visit(process, put(process, 1))
    process.answer(send, outcome)
    assert visit(process) is None
    process.drain.leave()
    assert visit(process, put(process, 2)) is None
    process.drain.leave()
    process.put(3, destination=THERE)
    assert visit(process, put(process, 4)) is None, "nor anything else: the caller waits"
    process.drain.leave()
    process.turn(61)
    assert number(visit(process, put(process, 5))) in (1, 5)


def test_visit_is_the_probe_when_the_back_off_is_over(begin):
    process = begin(workers=4)
    send = visit(process, put(process, 1))
    process.answer(send, BROKEN)
    process.drain.leave()
    process.turn(11)
    assert number(visit(process, put(process, 2))) == 2
    assert visit(process) is None, "one at a time until it has answered"


def test_leave_lets_the_next_process_lead_at_once(begin):
    one, two = begin(), begin()
    one.put(1)
    send = visit(one, put(one, 2))
    assert visit(two, put(two, 3)) is None, "another process leads"
    two.drain.leave()
    one.answer(send, OK)
    one.drain.leave()
    assert number(visit(two, put(two, 4))) == 4


def test_leave_forgets_its_claims_for_another_may_deliver_them(begin):
    one, two = begin(), begin()
    one.put(1, 2, 3)
    one.answer(visit(one, put(one, 4)), OK)
    one.drain.leave()
    assert two.deliver_all()[0] == [1, 2, 3]
    two.drain.end()
    assert visit(one) is None
    one.drain.leave()


def test_two_visitors_never_send_the_same(begin):
    process = begin(workers=4)
    process.put(1, 2)
    first = visit(process, put(process, 3))
    second = visit(process, put(process, 4))
    third, fourth = visit(process), visit(process)
    assert [number(one) for one in (first, second)] == [3, 4]
    assert {number(third), number(fourth)} == {1, 2}
    for send in (first, second, third, fourth):
        process.answer(send, OK)
        process.drain.leave()
    assert process.spool.stats()["delivered"] == 4


def test_lead_stays_until_the_last_visitor_has_left(begin):
    one, two = begin(workers=2), begin()
    first, second = visit(one, put(one, 1)), visit(one, put(one, 2))
    one.answer(first, OK)
    one.drain.leave()
    assert one.spool.leadership.is_held
    assert visit(two, put(two, 3)) is None
    one.answer(second, OK)
    one.drain.leave()
    assert not one.spool.leadership.is_held


def test_own_event_in_other_hands_is_not_sent_again(begin):
    process = begin(workers=4)
    own = put(process, 1)
    worker = process.send()
    assert number(worker) == 1
    assert visit(process, own) is None
    process.answer(worker, OK)
    assert visit(process, own) is None
    process.drain.leave()
    assert process.spool.stats()["delivered"] == 1


def test_visitor_beside_a_waiting_worker_leaves_it_the_lead(begin):
    process = begin(workers=4)
    process.put(1)
    process.answer(process.send(), OK)
    assert isinstance(process.step(), Wait)
    send = visit(process, put(process, 2))
    assert number(send) == 2
    process.answer(send, OK)
    process.drain.leave()
    assert process.spool.leadership.is_held
    assert process.spool.stats()["delivered"] == 2, "acked when the visitor left"


def test_answer_of_a_visitor_that_was_thrown_out_early_changes_nothing(begin):
    process = begin()
    send = visit(process, put(process, 1))
    process.answer(send, OK)
    process.answer(send, REFUSED)
    process.drain.leave()
    assert process.spool.stats()["delivered"] == 1


def test_stopped_drain_takes_no_visitors(begin):
    process = begin()
    own = put(process, 1)
    process.drain.stop()
    assert visit(process, own) is None
    assert isinstance(process.step(), Stop)
    assert not isinstance(process.step(), Send)
