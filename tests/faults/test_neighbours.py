"""Directories that somebody else can write into, or has made: /tmp, a group's, a link's target."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven_spool.spool import Spool
from tests.faults.children import Child, Notes, become
from tests.faults.events import make_transport, send, stored_ids
from tests.support import evidence
from tests.support.ingest import Ingest
from tests.support.spools import HERE, event
from tests.support.tool import run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes other users' ids: root only")

ROOT, ALICE, MALLORY = 0, 61_001, 61_666
FILES = [
    *("current", "write.lock", "queue.lock", "drain.lock", "drain.leader"),
    *("data.db", "data.db-wal", "data.db-shm", "data.db-journal", "ballast"),
]


@pytest.fixture
def public() -> Iterator[Path]:
    """As /tmp: anybody may make something there."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def make(path: Path, owner: int, mode: int) -> Path:
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def deliver(user: int, root: Path, url: str, output: Path) -> None:
    """Three events of an application, which ends with the return of its pipe."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    become(user)
    transport = make_transport(root)
    for _ in range(3):
        send(transport, url)
    transport.flush(3)
    transport.close(5)


def check_delivered(user: int, root: Path, public: Path) -> str:
    """All three arrive, one way or another. Returns what was said of it."""
    output = public / f"output-{user}"
    with Ingest() as ingest, Child(deliver, user, root, ingest.url, output) as child:
        assert child.join(40) == 0
        arrived = len(set(ingest.event_ids()))
    assert arrived == 3 or (public / "spool" / "drain.lock").stat().st_nlink > 1  # nobody can lead
    return output.read_text()


# -- whose directory ------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [ALICE, ROOT])
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_directory_that_another_made_in_tmp_gets_nothing(
    public: Path, user: int, mode: int
) -> None:
    """Root filled it with events and keys before, for its owner to read."""
    trap = make(public / "spool", MALLORY, mode)
    said = check_delivered(user, trap, public)
    assert f"belongs to user {MALLORY}" in said
    assert "wait in memory" in said
    assert list(trap.iterdir()) == []


@pytest.mark.parametrize("user", [ALICE, ROOT])
def test_link_to_a_directory_of_another_is_refused(public: Path, user: int) -> None:
    trap = make(public / "elsewhere", MALLORY, 0o777)
    make(public / "own", user, 0o755)
    (public / "own" / "spool").symlink_to(trap)
    said = check_delivered(user, public / "own" / "spool", public)
    assert f"belongs to user {MALLORY}" in said
    assert list(trap.iterdir()) == []


@pytest.mark.parametrize("user", [ALICE, ROOT])
def test_link_to_a_directory_of_ones_own_is_followed(public: Path, user: int) -> None:
    real = make(public / "real", user, 0o700)
    make(public / "own", user, 0o755)
    (public / "own" / "spool").symlink_to(real)
    assert check_delivered(user, public / "own" / "spool", public) == ""
    assert (real / "current").is_file()


def test_root_shares_the_spool_of_a_service_below_its_own_directory(public: Path) -> None:
    home = make(public / "alice", ALICE, 0o755)
    spool = make(home / "spool", ALICE, 0o700)
    assert check_delivered(ROOT, spool, public) == ""
    assert {file.lstat().st_uid for file in spool.rglob("*")} == {ALICE}


def send_when_told(user: int, root: Path, url: str, notes: Path, output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    become(user)
    transport = make_transport(root)
    Notes(notes).write(send(transport, url))
    wait_until(lambda: "moved" in Notes(notes).read(), what="another's directory there")
    for _ in range(5):
        Notes(notes).write(send(transport, url))
    transport.flush(10)
    transport.close(5)


def test_directory_that_is_exchanged_under_a_running_program_gets_nothing(public: Path) -> None:
    """By whoever may write into the directory above: no bit protects the name there."""
    above = make(public / "above", MALLORY, 0o777)
    root, notes, output = above / "spool", public / "notes", public / "output"
    notes.touch()
    notes.chmod(0o666)
    make(root, ALICE, 0o700)
    with Ingest() as ingest:
        with Child(send_when_told, ALICE, root, ingest.url, notes, output) as child:
            Notes(notes).wait_for(1)
            trap = make(above / "trap", MALLORY, 0o777)  # elsewhere: whole when it is met
            root.rename(above / "taken")
            trap.rename(root)
            Notes(notes).write("moved")
            assert child.join(40) == 0, output.read_text()
        sent = {line for line in Notes(notes).read() if line != "moved"}
        assert sent <= {*ingest.event_ids(), *stored_ids(above / "taken")}
    # Exchanged between a look and the next open, it may get a lock: an empty file.
    assert not list(root.glob("g-*"))
    assert not any(file.lstat().st_size for file in root.iterdir())
    assert f"belongs to user {MALLORY}" in output.read_text()


def test_tool_takes_no_more_than_its_owner_may(public: Path) -> None:
    """Run by root it is mallory, who can't read what the link leads to."""
    trap = make(public / "trap", MALLORY, 0o700)
    (trap / "current").symlink_to("/etc/shadow")
    for command in ("ls", "stats", "flush"):
        ran = run(command, "--spool", trap)
        assert ran.returncode in (65, 66, 77), ran.stderr
        assert "root" not in ran.stdout + ran.stderr.replace("by root", "")
    assert {file.name for file in trap.iterdir()} <= {"current", *FILES, "write.turn", "wake"}


# -- hard links -----------------------------------------------------------------------------------


@pytest.mark.evidence
@pytest.mark.parametrize("name", FILES)
def test_hard_link_planted_in_a_shared_directory_changes_no_file_of_others(
    public: Path, name: str
) -> None:
    """drain.lock was emptied, and drain.leader and the WAL written into, whatever file that was."""
    root, victim = public / "spool", public / "victim"
    before = Spool(str(root))
    assert before.enqueue(event(1), HERE)
    before.finish()
    inside = next(root.glob("g-*")) if name.startswith("data") else root
    for directory in (root, inside):
        directory.chmod(0o2770)  # of a group in which mallory is
    victim.write_bytes(b"not ours")
    (inside / name).unlink(missing_ok=True)
    os.link(victim, inside / name)
    kept = victim.stat()
    said = check_delivered(ROOT, root, public)
    now = victim.stat()
    assert victim.read_bytes() == b"not ours"
    assert (now.st_mode, now.st_mtime_ns, now.st_uid) == (kept.st_mode, kept.st_mtime_ns, 0)
    if name not in ("ballast", "drain.leader"):
        assert "hard link" in said
    if name == "drain.lock":
        assert len(stored_ids(root)) == 4
    evidence.note(
        f"a hard link to another's file in a shared directory: as {name}",
        promise=8, tried="1 program", events=3, lost=0, seen="that file is as it was",
    )  # fmt: skip


def test_spool_of_one_s_own_with_a_backup_by_hard_links_is_used_on(public: Path) -> None:
    root = make(public / "spool", ROOT, 0o700)
    assert check_delivered(ROOT, root, public) == ""
    for file in root.rglob("*"):
        if file.is_file():
            os.link(file, public / f"backup-{file.name}")
    assert check_delivered(ROOT, root, public) == ""
    assert len(list(root.glob("g-*"))) == 1


def test_name_that_a_killed_process_left_of_its_file_stops_nobody(public: Path) -> None:
    root = make(public / "spool", ROOT, 0o2770)
    assert check_delivered(ROOT, root, public) == ""
    for name in ("write.lock", "drain.lock"):
        os.link(root / name, root / f"{name}.0123abcd")  # between link and unlink
    assert check_delivered(ROOT, root, public) == ""
    assert not list(root.glob("*.0123abcd"))


def test_spool_of_another_that_is_linked_into_a_shared_one_is_not_brought_back(
    public: Path,
) -> None:
    """Whoever leads may read it, and whoever planted it may not."""
    private, root = public / "private", make(public / "spool", ROOT, 0o2770)
    alices = Spool(str(private))
    assert alices.enqueue(event(1, body=b"private"), HERE)
    alices.finish()
    spool = Spool(str(root))
    assert spool.enqueue(event(2), HERE)
    make(root / "g-0123", MALLORY, 0o755)
    os.link(next(private.glob("g-*/data.db")), root / "g-0123" / "data.db")
    assert spool.leadership.take()
    for _ in range(10):
        spool.salvage.step()
    assert [stored.event.event_id for stored in spool.page()] == [event(2).event_id]
    spool.leadership.let_go()
    spool.finish()
    assert alices.stats()["accepted"] == 1
