"""Many processes find one spool broken; they bring it back, and those who do so are killed."""

import logging
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from raven_spool.drain.outcomes import UNACKED
from raven_spool.spool import wreck
from tests.faults.children import Child, Notes
from tests.faults.events import check_bodies, count_repeats, make_transport, read_ledger, send
from tests.faults.points import Point
from tests.faults.test_broken import garble_current, overwrite_header, remove_current
from tests.faults.test_replaced import remove_log
from tests.support import evidence
from tests.support.answers import ok, status
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

PROCESSES = 8
KILLS = 5
STORED = 200
SENDS = 5
_AT_ONCE = 4  # events in one go: 50 goes, of which the dying do some 20
_WORKERS = 4
ROUNDS = 10


class Told(logging.Handler):
    def __init__(self, notes: Notes) -> None:
        super().__init__(logging.ERROR)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        if "a fresh file was begun" in record.getMessage():
            self._notes.write(record.getMessage())


def store(path: Path, url: str, returned: Path) -> None:
    transport = make_transport(path, backend="none")
    for _ in range(STORED):
        Notes(returned).write(send(transport, url))
    transport.close()


def work(directory: Path, url: str, point: Point | None, backend: str) -> None:
    """One worker of a server. Where it has a point, it dies in the middle of a salvage."""
    wreck._AT_ONCE = _AT_ONCE
    logging.getLogger("raven.spool").addHandler(Told(Notes(directory / "told")))
    if point:
        point.arm()
    transport = make_transport(directory / "spool", backend=backend, concurrency=_WORKERS)
    returned = Notes(directory / "returned")
    returned.write(send(transport, url))
    Notes(directory / "started").write("ready")
    wait_until((directory / "go").exists)
    for _ in range(SENDS):
        returned.write(send(transport, url))
    wait_until((directory / "over").exists, timeout_seconds=100)
    transport.close(20)


def points(seed: int) -> list[Point | None]:
    chance = random.Random(seed)
    dying = [
        Point("spool.salvage:Salvage", "_commit", side, chance.randint(1, 8))
        for side in chance.choices(("before", "after"), k=KILLS)
    ]
    found = [*dying, *[None] * (PROCESSES - KILLS)]
    chance.shuffle(found)
    return found


def check_round(directory: Path, spoil: Callable[[Path], None], seed: int) -> tuple[int, int, int]:
    """Returns events, kills and repeats."""
    directory.mkdir()
    path, returned = directory / "spool", Notes(directory / "returned")
    with Ingest() as ingest:
        ingest.answer_with(status(503))
        with Child(store, path, ingest.url, returned.path) as first:
            assert first.join() == 0
        children = [
            Child(work, directory, ingest.url, point, "thread" if point else "none")
            for point in points(seed)
        ]
        try:
            Notes(directory / "started").wait_for(PROCESSES)
            spoil(path)
            ingest.answer_with(ok())
            (directory / "go").touch()
            wait_until(
                lambda: sum(child.exit_code is not None for child in children) == KILLS,
                what="deaths",
            )
            # All that could lead are dead, and what they had begun to bring back is half done.
            assert len(list(path.glob("g-*"))) == 2
            children.append(Child(work, directory, ingest.url, None, "thread"))
            wait_until(lambda: set(returned.read()) <= set(ingest.event_ids()), what="delivery")
            (directory / "over").touch()
            ends = Counter(child.join() for child in children)
        finally:
            for child in children:
                child.kill()
        assert ends == {-signal.SIGKILL: KILLS, 0: PROCESSES - KILLS + 1}
        assert set(returned.read()) <= set(ingest.event_ids())
        # Each kill may cost what was answered and not acked; so may the break itself.
        repeats = count_repeats(ingest)
        assert repeats <= (KILLS + 1) * (UNACKED + _WORKERS)
        check_bodies(ingest.requests)
    # Without `current` there is none that could be put aside.
    begun = int(spoil is not remove_current)
    assert len(Notes(directory / "told").read()) == begun, "one of eight begins a fresh file"
    assert [one.name for one in path.glob("g-*")] == [(path / "current").read_text().strip()]
    ledger = read_ledger(path)
    assert ledger["ready"] == ledger["dead"] == ledger["dropped"] == 0
    return len(returned.read()), KILLS, repeats


def check_rounds(directory: Path, spoil: Callable[[Path], None], count: int) -> None:
    results = [check_round(directory / str(seed), spoil, seed) for seed in range(count)]
    events, kills, repeats = (sum(column) for column in zip(*results, strict=True))
    evidence.note(
        f"{spoil.__name__.replace('_', ' ')} under eight processes, leaders killed in the middle "
        "of the salvage",
        promise=2,
        tried=f"{kills} kills",
        events=events,
        lost=0,
        twice=repeats,
    )


def garble_current_and_header(path: Path) -> None:
    """The header alone is noticed by nobody who has read it."""
    overwrite_header(path)
    garble_current(path)


@pytest.mark.evidence
@pytest.mark.parametrize("spoil", [garble_current_and_header, remove_log])
def test_eight_processes_bring_a_broken_spool_back_though_leaders_die(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    check_rounds(tmp_path, spoil, 1)


@pytest.mark.soak
@pytest.mark.parametrize(
    "spoil", [garble_current, garble_current_and_header, remove_current, remove_log]
)
def test_eight_processes_bring_broken_spools_back_round_after_round(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    check_rounds(tmp_path, spoil, ROUNDS)
