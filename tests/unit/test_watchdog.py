"""What the watchdog of a spool tells, and when; processes and clocks are turned by hand."""

import pytest

from raven_spool.spool import Spool
from raven_spool.spool.watchdog import find_fault
from tests.support import evidence
from tests.support.drains import Process
from tests.support.spools import HERE, NOW, discard, event

HOUR = 3600.0
MINUTE = 60.0
LOOKS = 11


@pytest.fixture
def make_spool(tmp_path):
    """Processes of one spool."""
    made = []

    def make(warn_age_seconds=HOUR):
        made.append(Spool(str(tmp_path / "spool"), fsync="no", warn_age_seconds=warn_age_seconds))
        return made[-1]

    yield make
    for spool in made:
        discard(spool)


def look_each_minute(spool, minutes, start=0):
    """What is told, and at which minute."""
    told = []
    for minute in range(start, start + minutes):
        text = spool.watchdog.look(NOW + minute * MINUTE, minute * MINUTE)
        if text:
            told.append((minute, text))
    return told


@pytest.mark.parametrize(
    ("counts", "age", "said"),
    [
        ([5], None, ""),
        ([5], HOUR, ""),
        ([5], HOUR + 1, "oldest for 60 minutes"),
        ([5], -HOUR, ""),  # the clock went back
        (list(range(LOOKS)), 1.0, "only grown more"),
        (list(range(LOOKS - 1)), 1.0, ""),
        ([*range(LOOKS - 1), LOOKS - 2], 1.0, ""),
    ],
)
def test_fault_is_age_or_nothing_but_growth(counts, age, said):
    fault = find_fault(counts, age, HOUR)

    assert said in fault
    assert bool(said) == bool(fault)


@pytest.mark.evidence
def test_old_event_is_told_once_by_one_of_several_processes(make_spool):
    writer, other = make_spool(), make_spool()
    writer.enqueue(event(1), HERE)

    told = look_each_minute(writer, 90) + look_each_minute(other, 30, start=70)

    assert [minute for minute, _ in told] == [61]
    assert "1 events wait, the oldest for 61 minutes" in told[0][1]
    assert "oldest for 61 minutes" in writer.stats()["alarm"]
    evidence.note(
        "an event that waits longer than `warn_age`, seen by two processes for 90 minutes",
        promise=4,
        tried="120 looks",
        seen="told once, after 61 minutes",
    )


def test_growth_is_told_after_ten_minutes_of_it(make_spool):
    spool = make_spool()
    told = []
    for minute in range(20):
        spool.enqueue(event(minute), HERE)
        told += look_each_minute(spool, 1, start=minute)

    assert [minute for minute, _ in told] == [LOOKS]
    assert "only grown more" in told[0][1]


def test_recovered_spool_is_told_of_again(make_spool):
    spool = make_spool()
    first = spool.enqueue(event(1), HERE)
    assert len(look_each_minute(spool, 70)) == 1

    spool.drop([first], "removed")
    assert look_each_minute(spool, 5, start=70) == []
    assert spool.stats()["alarm"] is None

    spool.enqueue(event(2), HERE)
    assert len(look_each_minute(spool, 5, start=80)) == 1


def test_leader_that_has_emptied_it_forgets_the_alarm(tmp_path, make_spool):
    watcher = make_spool()
    process = Process(tmp_path / "spool")
    process.put(1)
    assert len(look_each_minute(watcher, 70)) == 1

    assert process.deliver_all()[0] == [1]
    process.turn(10)
    process.step()  # it parks

    process.put(2)
    assert watcher.stats()["alarm"] is None
    assert len(look_each_minute(watcher, 5, start=80)) == 1
    discard(process.spool)


def test_first_look_comes_after_a_minute_unless_nobody_delivers(make_spool):
    patient, urgent = make_spool(), make_spool()
    patient.enqueue(event(1, created_at=NOW - 2 * HOUR), HERE)

    assert patient.watchdog.look(NOW, 100.0) == ""
    assert patient.watchdog.look(NOW + 59, 159.0) == ""
    assert "oldest for 120 minutes" in urgent.watchdog.look(NOW, 100.0, at_once=True)


def test_switched_off_it_tells_nothing(make_spool):
    spool = make_spool(warn_age_seconds=0.0)
    spool.enqueue(event(1, created_at=NOW - 1000 * HOUR), HERE)

    assert spool.watchdog.look(NOW, 100.0, at_once=True) == ""


def test_spool_in_use_is_looked_at_later(make_spool):
    spool = make_spool()
    spool.enqueue(event(1, created_at=NOW - 2 * HOUR), HERE)

    within = spool._store.read(lambda queue: spool.watchdog.look(NOW, 100.0, at_once=True))

    assert within == ""
    assert "oldest for" in spool.watchdog.look(NOW, 200.0)
