"""Who may use a spool: its owner, root for the owner, and a group where all were told so.

Children take the ids of users that need not exist. This Python's library may be closed to other
users (an interpreter in /root), so they import what they use before they change.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raven_spool.cli.place import _LOADED_LATER
from raven_spool.errors import SpoolError, SpoolUnusable
from raven_spool.spool import Spool
from raven_spool.transport import SpoolTransport
from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import send
from tests.support.ingest import Ingest
from tests.support.spools import event
from tests.support.tool import KEY, SECRET, destination
from tests.support.waiting import wait_until

NOWHERE = f"http://{KEY}:{SECRET}@127.0.0.1:9/7"
GROUP = 61100


@dataclass(frozen=True)
class User:
    uid: int
    groups: tuple[int, ...] = ()


ROOT = User(0)
ALICE, BOB = User(61001, (GROUP,)), User(61002, (GROUP,))
CAROL = User(61003)  # not in the group

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes other users' ids: root only")


# -- other users ----------------------------------------------------------------------------------


def _live_as(user: User, umask: int, answer: Path, target: Callable[..., Any], args: Any) -> None:
    with answer.open("w") as file:
        os.umask(umask)
        for name in _USED[target is tool]:
            importlib.import_module(name)
        os.setgroups(user.groups)
        os.setgid(user.uid)
        os.setuid(user.uid)
        json.dump(target(*args), file)


@contextlib.contextmanager
def living(user: User, target: Callable[..., Any], *args: Any, umask: int = 0o077) -> Iterator[Any]:
    """A process of that user; what it returned is read with `answer_of`."""
    with tempfile.TemporaryDirectory() as room:
        answer = Path(room, "answer")
        with Child(_live_as, user, umask, answer, target, args) as child:
            yield child, answer


def ask(user: User, target: Callable[..., Any], *args: Any, umask: int = 0o077) -> Any:
    """What `target(*args)` returns in a process of that user."""
    with living(user, target, *args, umask=umask) as (child, answer):
        assert child.join() == 0
        return json.loads(answer.read_text())


def put(path: Path, number: int, group: int | None) -> str:
    """Enqueue one event; returns what went wrong."""
    spool = Spool(str(path), group=group)
    try:
        spool.enqueue(event(number), destination(NOWHERE), timeout_seconds=5)
    except SpoolError as error:
        return str(error)
    spool.finish()
    return ""


def tool(calls: list[tuple[str | Path, ...]], env: dict[str, str]) -> list[tuple[int, str, str]]:
    """The command line, call by call: exit codes and what was printed."""
    os.environ.update(env)
    return [_call(args) for args in calls]


def _call(args: tuple[str | Path, ...]) -> tuple[int, str, str]:
    from raven_spool.cli import main

    sys.argv = ["raven-spool", *map(str, args)]
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), told.getvalue()
    raise AssertionError("the tool did not exit")


_USED = {
    False: ("encodings.idna",),
    True: ("raven_spool.cli.ls", "raven_spool.cli.send", *_LOADED_LATER),
}


def run(user: User, *args: str | Path, **env: str) -> tuple[int, str, str]:
    """One call of the command line by that user."""
    (answer,) = ask(user, tool, [args], env)
    return tuple(answer)


IN_GROUP = {"RAVEN_SPOOL_GROUP": str(GROUP)}


@contextlib.contextmanager
def away(ingest: Ingest) -> Iterator[None]:
    """The server can't be reached."""
    ingest.stop()
    yield
    ingest.start()


def shell(command: str) -> int:
    return subprocess.run(command, shell=True, timeout=30).returncode


# -- directories ----------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users can enter."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def home(public: Path) -> Path:
    return make(public / "alice", ALICE.uid, ALICE.uid, 0o755)


@pytest.fixture
def shared(public: Path) -> Path:
    return make(public / "spool", ALICE.uid, GROUP, 0o2770)


def make(path: Path, owner: int, group: int, mode: int) -> Path:
    path.mkdir()
    os.chown(path, owner, group)
    path.chmod(mode)
    return path


def look(path: Path) -> dict[str, tuple[int, int, int]]:
    """Owner, group and mode of what is there, by its name without what is random."""
    found = {}
    for one in (path, *path.rglob("*")):
        state = one.lstat()
        name = re.sub("g-[0-9a-f]{16}", "g-", str(one.relative_to(path)))
        found[name] = (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode))
    return found


def live(path: Path) -> str:
    return (path / "current").read_text().strip()


FILES = {
    "ballast",
    *("current", "queue.lock", "write.lock", "write.turn", "wake", "drain.lock", "drain.leader"),
    *("g-/data.db", "g-/data.db-wal", "g-/data.db-shm"),
}


# -- modes ----------------------------------------------------------------------------------------


def lead_and_look(path: Path, group: int | None) -> dict[str, Any]:
    """All files that a spool ever has, while they are open."""
    spool = Spool(str(path), group=group)
    spool.enqueue(event(1), destination(NOWHERE), timeout_seconds=5)
    assert spool.leadership.take()
    return look(path)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_shared_spool_is_for_the_group_under_any_umask(shared: Path, umask: int) -> None:
    found = ask(BOB, lead_and_look, shared, GROUP, umask=umask)
    assert set(found) == {".", "g-"} | FILES
    assert found["."] == [ALICE.uid, GROUP, 0o2770]
    assert found["g-"] == [BOB.uid, GROUP, 0o2770]
    assert {tuple(found[name]) for name in FILES} == {(BOB.uid, GROUP, 0o660)}


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_shared_directory_is_made_under_any_umask(home: Path, umask: int) -> None:
    found = ask(ALICE, lead_and_look, home / "spool", GROUP, umask=umask)
    assert found["."] == found["g-"] == [ALICE.uid, GROUP, 0o2770]
    assert {tuple(found[name]) for name in FILES} == {(ALICE.uid, GROUP, 0o660)}


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_without_a_group_all_is_private(home: Path, umask: int) -> None:
    found = ask(ALICE, lead_and_look, home / "spool", None, umask=umask)
    assert found["."] == found["g-"] == [ALICE.uid, ALICE.uid, 0o700]
    assert {tuple(found[name]) for name in FILES} == {(ALICE.uid, ALICE.uid, 0o600)}


def find_unfinished(path: Path) -> list[str]:
    """What was at any step of making a spool more open than it is in the end, or had its name
    before it was as open as that: another user's program would fail on it."""
    names = {Path(name).name for name in FILES}
    seen: list[str] = []
    is_looking = False

    def watch(name: str, args: tuple[Any, ...]) -> None:
        nonlocal is_looking
        if is_looking or not name.startswith(("open", "os.", "sqlite3.", "fcntl.")):
            return
        is_looking = True
        for one in path.rglob("*"):
            state = one.lstat()
            is_for_group = state.st_gid == GROUP and state.st_mode & 0o777 == 0o660
            is_too_open = state.st_mode & (0o007 if state.st_gid == GROUP else 0o077)
            if is_too_open or (one.name in names and not is_for_group):
                seen.append(f"before {name}: {one.name} {state.st_mode:o} {state.st_gid}")
        is_looking = False

    sys.addaudithook(watch)
    assert set(lead_and_look(path, GROUP)) > FILES
    return seen


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_no_file_is_met_more_or_less_open_than_in_the_end(shared: Path, umask: int) -> None:
    assert ask(ALICE, find_unfinished, shared, umask=umask) == []


def put_without_set_group_id(path: Path, number: int) -> str:
    """As under systemd's RestrictSUIDSGID."""

    def forbid(name: str, args: tuple[Any, ...]) -> None:
        if name == "os.chmod" and args[1] & stat.S_ISGID:
            raise PermissionError("set-group-id is not to be had")

    sys.addaudithook(forbid)
    return put(path, number, GROUP)


def test_shared_spool_where_set_group_id_cannot_be_set(shared: Path, home: Path) -> None:
    told = ask(BOB, put_without_set_group_id, shared, 1)
    assert f"cannot make {shared}/g-" in told
    assert "set UMask=0007" in told
    assert ask(BOB, put_without_set_group_id, shared, 1, umask=0o007) == ""
    assert look(shared)["g-/data.db"] == (BOB.uid, GROUP, 0o660)
    assert ask(ALICE, put, shared, 2, GROUP) == ""
    told = ask(ALICE, put_without_set_group_id, home / "spool", 3, umask=0o007)
    assert "tmpfiles.d" in told


# -- two users ------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [ALICE, ROOT], ids=["of-one", "of-root"])
def test_two_users_see_and_deliver_each_other_s_events(
    public: Path, ingest: Ingest, owner: User
) -> None:
    path = make(public / "spool", owner.uid, GROUP, 0o2770)
    dsn = ingest.dsn(KEY, SECRET)
    for sending, draining in ((ALICE, BOB), (BOB, ALICE)):
        with away(ingest):
            args = ("send", "-m", "x", "--dsn", dsn, "--spool", path)
            code, event_id, _ = run(sending, *args, **IN_GROUP)
            assert code == 69
        calls = [("ls", "--json", "--spool", path), ("flush", "-q", "--spool", path)]
        (code, listed, _), flushed = ask(draining, tool, calls, IN_GROUP)
        assert (code, json.loads(listed)["event_id"]) == (0, event_id.strip())
        assert flushed == [0, "", ""]
    assert Spool(str(path)).stats()["delivered"] == len(ingest.event_ids()) == 2


def hold_open(path: Path, notes: Notes) -> None:
    spool = Spool(str(path), group=GROUP)
    spool.enqueue(event(7), destination(NOWHERE), timeout_seconds=5)
    notes.write("open")
    wait_for_ever()


def test_wal_is_made_anew_by_the_other_user(shared: Path, public: Path) -> None:
    notes = Notes(public / "notes")
    notes.path.touch()
    notes.path.chmod(0o666)
    for number, (first, second) in enumerate(((ALICE, BOB), (BOB, ALICE))):
        assert ask(first, put, shared, number, GROUP) == ""
        assert "g-/data.db-wal" not in look(shared)
        with living(second, hold_open, shared, notes) as (child, _):
            notes.wait_for(number + 1)
            assert look(shared)["g-/data.db-wal"] == (second.uid, GROUP, 0o660)
            assert ask(first, put, shared, number + 10, GROUP) == ""
            child.kill()  # its WAL stays behind
        assert ask(first, put, shared, number + 20, GROUP) == ""
    assert Spool(str(shared)).stats()["accepted"] == 8


def lead(path: Path, notes: Notes) -> None:
    spool = Spool(str(path), group=GROUP)
    wait_until(spool.leadership.take, what="the lead")
    notes.write(f"{os.getuid()} {spool.leadership.careful}")
    wait_for_ever()


def test_lead_is_handed_from_user_to_user(shared: Path, public: Path) -> None:
    notes = Notes(public / "notes")
    notes.path.touch()
    notes.path.chmod(0o666)
    said = []
    with living(ALICE, lead, shared, notes) as (alice, _):
        said.append(f"{ALICE.uid} False")
        assert notes.wait_for(1) == said
        with living(BOB, lead, shared, notes) as (bob, _):
            alice.kill()
            said.append(f"{BOB.uid} True")
            assert notes.wait_for(2) == said
            with living(ALICE, lead, shared, notes):
                bob.kill()
                said.append(f"{ALICE.uid} True")
                assert notes.wait_for(3) == said


def spoil(path: Path) -> None:
    (path / live(path) / "data.db").unlink()


def put_twice(path: Path, notes: Notes) -> list[str]:
    """Before and after another user has begun a fresh generation."""
    spool = Spool(str(path), group=GROUP)
    spool.enqueue(event(1), destination(NOWHERE), timeout_seconds=5)
    first = live(path)
    notes.write("first")
    wait_until(lambda: live(path) != first, what="a fresh generation")
    spool.enqueue(event(2), destination(NOWHERE), timeout_seconds=5)
    return [first, live(path)]


def test_fresh_generation_of_the_other_user_is_followed(shared: Path, public: Path) -> None:
    notes = Notes(public / "notes")
    notes.path.touch()
    notes.path.chmod(0o666)
    with living(ALICE, put_twice, shared, notes) as (child, answer):
        notes.wait_for(1)
        spoil(shared)
        assert ask(BOB, put, shared, 3, GROUP) == ""
        assert child.join() == 0
        old, new = json.loads(answer.read_text())
    assert old != new
    assert (shared / old).stat().st_uid == ALICE.uid
    for name, mode in (("current", 0o660), (new, 0o2770), (f"{new}/data.db", 0o660)):
        state = (shared / name).stat()
        assert (state.st_uid, state.st_gid) == (BOB.uid, GROUP)
        assert stat.S_IMODE(state.st_mode) == mode
    assert Spool(str(shared)).stats()["accepted"] == 2


def put_at_the_sign(path: Path, number: int, sign: Path) -> str:
    wait_until(sign.exists, what="the sign")
    return put(path, number, GROUP)


def test_users_who_begin_a_spool_together_meet_nothing_half_made(
    shared: Path, public: Path
) -> None:
    with contextlib.ExitStack() as stack:
        answers = []
        for number in range(6):
            user = (ALICE, BOB)[number % 2]
            born = living(user, put_at_the_sign, shared, number, public / "sign")
            answers.append(stack.enter_context(born))
        (public / "sign").touch()
        for child, answer in answers:
            assert child.join() == 0
            assert json.loads(answer.read_text()) == ""
    assert Spool(str(shared)).stats()["accepted"] == 6
    assert sorted(path.name for path in shared.glob("*.*.*")) == []


# -- everyone else --------------------------------------------------------------------------------

COMMANDS = [("ls",), ("stats",), ("flush",), ("send", "-m", "x", "--dsn", NOWHERE)]


def test_tool_refuses_who_is_not_in_the_group(shared: Path) -> None:
    assert ask(ALICE, put, shared, 1, GROUP) == ""
    calls = [(*command, "--spool", shared) for command in COMMANDS]
    for code, out, told in ask(CAROL, tool, calls, IN_GROUP):
        assert (code, out) == (77, "")
        assert f"the spool {shared} with group {GROUP}: user {CAROL.uid} is not in it" in told
    for code, out, told in ask(CAROL, tool, calls, {}):
        assert (code, out) == (77, "")
        assert f"{shared} belongs to user {ALICE.uid}" in told


def test_member_without_the_option_is_told_of_it(shared: Path) -> None:
    assert ask(ALICE, put, shared, 1, GROUP) == ""
    code, _, told = run(BOB, "stats", "--spool", shared)
    assert code == 77
    assert f"user {ALICE.uid}, who shares it with group {GROUP}: set group={GROUP}" in told
    assert "RAVEN_SPOOL_GROUP" in told
    assert f"set group={GROUP}" in ask(BOB, put, shared, 2, None)


def deliver(path: Path | None, url: str, env: dict[str, str]) -> list[str]:
    """An application sends one event; returns what it logged."""
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("raven.spool").addHandler(handler)
    os.environ.pop("HOME", None)
    os.environ.update(env)
    transport = SpoolTransport(spool_path=None if path is None else str(path))
    send(transport, url)
    transport.close(10)
    return logged


def test_application_of_another_user_delivers_from_memory(shared: Path, ingest: Ingest) -> None:
    assert ask(ALICE, put, shared, 1, GROUP) == ""
    before = look(shared)
    (told,) = ask(CAROL, deliver, shared, ingest.url, {})
    assert f"belongs to user {ALICE.uid}" in told
    assert "events wait in memory" in told
    assert len(ingest.event_ids()) == 1
    assert look(shared) == before


def test_applications_of_two_users_share_a_spool(shared: Path, ingest: Ingest) -> None:
    for user in (ALICE, BOB, ALICE):
        assert ask(user, deliver, shared, ingest.url, IN_GROUP) == []
    stats = Spool(str(shared)).stats()
    assert stats["accepted"] == stats["delivered"] == len(ingest.event_ids()) == 3
    assert {state[2] for state in look(shared).values()} == {0o2770, 0o660}


@pytest.mark.parametrize("mode", [0o700, 0o770, 0o2750, 0o2775, 0o3770, 0o2777], ids=oct)
def test_directory_that_is_not_shared_is_refused(public: Path, mode: int) -> None:
    path = make(public / "spool", ALICE.uid, GROUP, mode)
    told = ask(BOB, put, path, 1, GROUP)
    assert f"the spool {path} is not shared with group {GROUP}" in told
    assert f"user {ALICE.uid}'s, group {GROUP}, mode {mode:04o}" in told
    assert [*path.iterdir()] == []


def test_directory_of_another_group_is_refused(public: Path) -> None:
    path = make(public / "spool", ALICE.uid, GROUP + 1, 0o2770)
    assert f"not shared with group {GROUP}" in ask(ALICE, put, path, 1, GROUP)
    assert [*path.iterdir()] == []


def test_links_in_a_shared_directory_are_refused(shared: Path, home: Path) -> None:
    # Without the hints of `write.turn` the gate does; without the others there is no spool.
    for name, is_needed in (("queue.lock", True), ("current", True), ("write.turn", False)):
        victim = make(home / f"of-{name}", ALICE.uid, ALICE.uid, 0o700) / "file"
        (shared / name).unlink(missing_ok=True)
        (shared / name).symlink_to(victim)
        os.lchown(shared / name, BOB.uid, GROUP)
        assert (name in ask(ALICE, put, shared, 1, GROUP)) == is_needed
        assert not victim.exists()
        (shared / name).unlink()
    assert ask(ALICE, put, shared, 1, GROUP) == ""


# -- from private to shared -----------------------------------------------------------------------


def test_empty_directory_of_one_s_own_becomes_shared(home: Path) -> None:
    path = make(home / "spool", ALICE.uid, ALICE.uid, 0o700)
    assert ask(ALICE, put, path, 1, GROUP) == ""
    assert ask(BOB, put, path, 2, GROUP) == ""
    assert Spool(str(path)).stats()["accepted"] == 2


def test_private_spool_tells_how_to_share_it(home: Path) -> None:
    path = home / "of us"
    assert ask(ALICE, put, path, 1, None) == ""
    before = look(path)
    told = ask(ALICE, put, path, 2, GROUP)
    assert told == ask(BOB, put, path, 2, GROUP)
    assert f"is not shared with group {GROUP}" in told
    assert look(path) == before
    commands = told.partition("as its owner: ")[2]
    assert shlex.quote(str(path)) in commands

    assert ask(ALICE, shell, commands) == 0
    assert ask(BOB, put, path, 3, GROUP) == ""
    assert ask(ALICE, put, path, 4, GROUP) == ""
    assert ask(ALICE, put, path, 5, None) == ""  # a program that was not told of the group
    assert ask(BOB, put, path, 6, GROUP) == ""
    assert {state[2] for state in look(path).values()} == {0o2770, 0o660}
    assert Spool(str(path)).stats()["accepted"] == 5


def test_nothing_is_made_for_a_group_one_is_not_in(home: Path) -> None:
    assert f"user {ALICE.uid} is not in it" in ask(ALICE, put, home / "spool", 1, GROUP + 1)
    assert [*home.iterdir()] == []


# -- root -----------------------------------------------------------------------------------------


def test_root_s_flush_locks_nobody_out(home: Path, ingest: Ingest) -> None:
    path = home / "spool"
    with away(ingest):
        args = ("send", "-m", "x", "--dsn", ingest.dsn(KEY, SECRET), "--spool", path)
        assert run(ALICE, *args)[0] == 69
    for name in ("drain.lock", "drain.leader", "wake"):  # an application that never drained
        (path / name).unlink(missing_ok=True)
    assert run(ROOT, "flush", "-q", "--spool", path) == (0, "", "")
    assert {state[:2] for state in look(path).values()} == {(ALICE.uid, ALICE.uid)}
    assert run(ALICE, *args)[0] == 0
    assert len(ingest.event_ids()) == 2


def test_root_s_flush_of_a_shared_spool_locks_nobody_out(shared: Path, ingest: Ingest) -> None:
    with away(ingest):
        args = ("send", "-m", "x", "--dsn", ingest.dsn(KEY, SECRET), "--spool", shared)
        assert run(BOB, *args, **IN_GROUP)[0] == 69
    assert run(ROOT, "flush", "-q", "--spool", shared) == (0, "", "")
    assert {state[1] for state in look(shared).values()} == {GROUP}
    assert {state[2] for state in look(shared).values()} == {0o2770, 0o660}
    for user in (ALICE, BOB):
        assert run(user, *args, **IN_GROUP)[0] == 0
    assert len(ingest.event_ids()) == 3


def test_root_s_send_makes_the_spool_for_whose_place_it_is(home: Path) -> None:
    path = home / "state" / "spool"
    assert run(ROOT, "send", "-m", "x", "--dsn", NOWHERE, "--spool", path)[0] == 69
    assert {state[:2] for state in look(home).values()} == {(ALICE.uid, ALICE.uid)}
    assert ask(ALICE, put, path, 2, None) == ""


def test_root_is_told_where_the_owner_cannot_go(public: Path) -> None:
    closed = make(public / "private", 0, 0, 0o700)  # as systemd's DynamicUser has it
    path = make(closed / "spool", ALICE.uid, ALICE.uid, 0o700)
    code, _, told = run(ROOT, "flush", "--spool", path)
    assert code == 77
    assert f"a directory above the spool {path} is closed to its owner, user {ALICE.uid}" in told


@pytest.mark.parametrize("group", [None, GROUP], ids=["private", "shared"])
def test_root_s_application_locks_nobody_out(home: Path, group: int | None) -> None:
    path = home / "spool"
    assert ask(ALICE, put, path, 1, group) == ""
    spoil(path)
    ask(ROOT, lead_and_look, path, group)  # begins a generation, makes what was not there
    found = look(path)
    assert set(found) >= FILES - {"g-/data.db-wal", "g-/data.db-shm"}
    mode, gid = (0o600, ALICE.uid) if group is None else (0o660, GROUP)
    assert {found[name] for name in FILES & set(found)} == {(ALICE.uid, gid, mode)}
    assert ask(ALICE, lead_and_look, path, group)


# -- services -------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["/nonexistent", ""], ids=["home-is-absent", "no-home-no-name"])
def test_service_user_without_a_home_delivers_from_memory(home: str, ingest: Ingest) -> None:
    told = ask(CAROL, deliver, None, ingest.url, {"HOME": home} if home else {})
    assert len(told) == 1
    place = "/nonexistent/.local/state" if home else "/var/lib"
    assert f"cannot make the spool directory {place}/raven-spool" in told[0]
    assert "spool_path" in told[0]
    assert len(ingest.event_ids()) == 1


def test_unit_and_timer_share_systemd_s_state_directory(home: Path, ingest: Ingest) -> None:
    state = {"STATE_DIRECTORY": str(home)}
    with away(ingest):
        sent = run(ALICE, "send", "-m", "x", "--dsn", ingest.dsn(KEY, SECRET), **state)
        assert sent[0] == 69
    path = home / "raven-spool"
    assert look(path)["."] == (ALICE.uid, ALICE.uid, 0o700)
    assert run(ALICE, "flush", **state) == (0, "1 delivered, 0 dead, 0 remaining\n", "")
    assert run(ROOT, "flush", **state)[0] == 0
    assert run(ROOT, "flush", "--spool", path)[0] == 0
    assert {state[0] for state in look(path).values()} == {ALICE.uid}


def test_application_uses_systemd_s_state_directory(home: Path, ingest: Ingest) -> None:
    assert ask(ALICE, deliver, None, ingest.url, {"STATE_DIRECTORY": str(home)}) == []
    assert (home / "raven-spool" / "current").exists()
    assert len(ingest.event_ids()) == 1


# -- what is refused again and again --------------------------------------------------------------


def count_frames(path: Path) -> list[int]:
    spool = Spool(str(path))
    counts = []
    for number in range(20):
        try:
            spool.enqueue(event(number), destination(NOWHERE))
        except SpoolUnusable as error:
            counts.append(len(traceback.extract_tb(error.__traceback__)))
    return counts


def test_refusal_does_not_grow_with_each_send(shared: Path) -> None:
    counts = ask(CAROL, count_frames, shared)
    assert len(counts) == 20
    assert max(counts) < 2 * counts[0]
