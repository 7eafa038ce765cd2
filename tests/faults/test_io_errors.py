"""An error of the disk at each thing SQLite asks of it, one after another: none reaches the
application, none costs an event, and the spool goes on.

In a child, since the file layer of its SQLite is spoilt (tests/support/vfs.py).
"""

import json
from pathlib import Path

import pytest

from raven_spool.drain import machine
from raven_spool.spool import keeper, store
from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import (
    check_bodies,
    make_transport,
    new_id,
    read_ledger,
    send,
    stored_ids,
)
from tests.support import evidence, vfs
from tests.support.answers import Answer, limits, ok, status
from tests.support.ingest import Ingest, Seen
from tests.support.waiting import wait_until

EVENTS = 10
# Of so many calls one: in the short form, and in the long one where each takes its time.
SAMPLED = {False: 31, True: 61}
SOAK_SAMPLED = {False: 1, True: 3}
CANTOPEN = 14
_IO_ERRORS = {
    "open": CANTOPEN,
    "write": vfs.IOERR_WRITE,
    "truncate": vfs.IOERR_TRUNCATE,
    "sync": vfs.IOERR_FSYNC,
    "delete": vfs.IOERR_DELETE,
}
_FULL = {"write": vfs.FULL}
KINDS = {"full": _FULL, "io": _IO_ERRORS}


class Spoilt:
    """The disk fails at the n-th call, or from then on until it is mended."""

    def __init__(self, codes: dict[str, int], nth: int, lasts: bool) -> None:
        self._codes = codes
        self._nth = nth
        self._lasts = lasts
        self.calls = 0

    def before(self, call: vfs.Call) -> int:
        if call.kind not in self._codes:
            return vfs.OK
        self.calls += 1
        fails = self.calls == self._nth or (self._lasts and self.calls > self._nth)
        return self._codes[call.kind] if fails else vfs.OK

    def after(self, call: vfs.Call) -> None: ...

    def spoil(self) -> None:
        self._nth = self.calls

    def mend(self) -> None:
        self._lasts = False


def spoil_each(base: Path, url: str, said: Path, kind: str, lasts: bool, step: int) -> None:
    """A spool of its own for each call at which the disk fails, until no call is left."""
    machine._TICK_SECONDS = machine._TROUBLE_SECONDS = 0.02
    keeper._BEAT_SECONDS = 0.05
    keeper._FAILING_SECONDS = 0.1
    store._RETRY_OPEN_SECONDS = 0.05
    nth = 1
    while True:
        disk = Spoilt(KINDS[kind], nth, lasts)
        with vfs.Watched(disk):
            sent = _live(base / str(nth), url, disk)
        if disk.calls < nth:
            return
        Notes(said).write(json.dumps({"nth": nth, "sent": sent}))
        nth += step


def _live(path: Path, url: str, disk: Spoilt) -> list[str]:
    """Each event is stored, delivered, buried, held or tried again, as its id tells the server."""
    transport = make_transport(path, fsync="always", max_bytes=1 << 20)
    sent = [send(transport, url, "0bad"[number % 4] + new_id()[1:]) for number in range(EVENTS)]
    transport.flush(0.3)
    disk.mend()

    def is_well() -> bool:
        sent.append(send(transport, url))
        return (path / "current").exists() and not transport.stats()["volatile"]

    wait_until(is_well, what="a spool that takes events again, those in memory too")
    assert transport.flush(30), "all that can be delivered is"
    transport.close(5)
    return sent


class Fates:
    """What the server says to an event, by the first letter of its id."""

    def __init__(self) -> None:
        self._known: set[str | None] = set()

    def answer(self, seen: Seen) -> Answer:
        letter = (seen.event_id or " ")[0]
        if letter == "d":
            return status(400)
        is_first = seen.event_id not in self._known
        self._known.add(seen.event_id)
        if is_first and letter == "b":
            return limits("0.02:error:key")
        if is_first and letter == "a":
            return status(503)
        return ok()


def _spoil(base: Path, kind: str, lasts: bool, step: int) -> None:
    said = Notes(base / "said")
    with Ingest() as ingest:
        ingest.answer_by(Fates().answer)
        with Child(spoil_each, base, ingest.url, said.path, kind, lasts, step) as child:
            assert child.join(280) == 0, said.read()[-1:]
        check_bodies(ingest.requests)
        delivered = ingest.event_ids()
    runs = [json.loads(line) for line in said.read()]
    assert len(runs) > 100 / step
    for run in runs:
        _check(base / str(run["nth"]), run["sent"], set(delivered))
    sent = [one for run in runs for one in run["sent"]]
    evidence.note(
        f"{'a full disk' if kind == 'full' else 'an I/O error'} {'from' if lasts else 'at'} each "
        f"thing that SQLite asks of the disk{' on, for a while' if lasts else ''}",
        promise=2, tried=f"{len(runs)} errors", events=len(sent), lost=0,
        twice=len(delivered) - len(set(delivered)),
    )  # fmt: skip


def _check(path: Path, sent: list[str], delivered: set[str]) -> None:
    ledger = read_ledger(path)
    assert ledger["ready"] == 0, path
    known = delivered | set(stored_ids(path))
    assert not [one for one in sent if one not in known and one[0] != "d"], path
    assert len(list(path.glob("g-*"))) == 1, "no reason to begin another file"


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("kind", KINDS)
def test_error_of_the_disk_at_one_call(in_memory: Path, kind: str, lasts: bool) -> None:
    _spoil(in_memory, kind, lasts, SAMPLED[lasts])


@pytest.mark.soak
@pytest.mark.parametrize("lasts", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("kind", KINDS)
def test_error_of_the_disk_at_each_call(in_memory: Path, kind: str, lasts: bool) -> None:
    _spoil(in_memory, kind, lasts, SOAK_SAMPLED[lasts])


def fail_for_good(path: Path, url: str, returned: Path) -> None:
    """A disk that fails from the second event on, and is never mended."""
    keeper._FAILING_SECONDS = 0.2
    disk = Spoilt({"write": vfs.IOERR_WRITE}, 1 << 30, lasts=True)
    with vfs.Watched(disk):
        transport = make_transport(path, backend="none")  # nobody here takes the ballast
        Notes(returned).write(send(transport, url))
        disk.spoil()
        for _ in range(20):
            Notes(returned).write(send(transport, url))
        wait_for_ever()


def test_disk_that_fails_for_good_keeps_no_event_in_memory(in_memory: Path) -> None:
    """They waited there until the buffer was full: a disk that failed counted as busy."""
    returned = Notes(in_memory / "returned")
    with Ingest() as ingest, Child(fail_for_good, in_memory / "spool", ingest.url, returned.path):
        _, *sent = returned.wait_for(21)  # the first one is on the disk, and safe there
        wait_until(lambda: {*sent} <= {*ingest.event_ids()}, what="all others, from memory")
