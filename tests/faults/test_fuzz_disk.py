"""Anything in the place of what lies in a spool: applications send and deliver, the tool says what
it finds, and nobody writes elsewhere."""

import contextlib
import dataclasses
import io
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example
from hypothesis import strategies as st

from raven_spool.cli.app import tool
from raven_spool.cli.exits import Exit, one_line
from raven_spool.model import Destination, State
from raven_spool.spool import Spool
from tests.faults.events import body_of, check_bodies, make_transport, send
from tests.support.damage import EVENTS, FILES, Change, apply, changes, replace, shapes
from tests.support.drains import BAD, BROKEN, OK, Process, limited
from tests.support.fuzzing import lengths, note_searches, option_texts, search
from tests.support.ingest import Ingest
from tests.support.memory import memory_directory
from tests.support.spools import discard, ended, event
from tests.support.waiting import wait_until

COMMANDS = (
    ("ls",), ("ls", "--json"), ("show", "1"), ("show", "2", "--json"), ("show", "3", "--body"),
    ("stats",), ("stats", "--json"), ("stats", "--prometheus"), ("stats", "--max-age", "1h"),
    ("check",), ("check", "--json"),
)  # fmt: skip
FINDINGS = {Exit.DONE, Exit.CORRUPT, Exit.NO_SPOOL, Exit.LATER, Exit.UNREACHABLE}


@pytest.fixture(scope="module", autouse=True)
def noted() -> Iterator[None]:
    yield
    note_searches(
        "anything in the place of a spool's rows, cells and files",
        promise=2,
        seen="sends return, the tool ends with its exit codes, what is whole is delivered",
    )


@pytest.fixture(scope="module")
def ingest() -> Iterator[Ingest]:
    with Ingest() as started:
        yield started


def fill(
    path: Path, ingest: Ingest, numbers: Iterable[int], *, project: str, **more: Any
) -> Process:
    """Events whose content follows from their numbers, spooled for the ingest."""
    process = Process(path, now=time.time())
    to = Destination(base_url=ingest.url, project=project, public_key="k" * 32)
    for number in numbers:
        made = event(number, created_at=process.now, body=body_of(id_of(number)), **more)
        assert process.spool.enqueue(made, to)
    return process


def id_of(number: int) -> str:
    return f"{number:032x}"


def end(process: Process) -> None:
    process.step()
    process.spool.leadership.let_go()
    discard(process.spool)


@pytest.fixture(scope="module")
def template(ingest: Ingest) -> Iterator[Path]:
    """A spool with events ready and dead, tried and not, limited, dropped and delivered."""
    with memory_directory() as directory:
        path = directory / "spool"
        discard(fill(path, ingest, range(1, 5), project="5").spool)
        discard(fill(path, ingest, range(5, 8), project="6").spool)
        process = fill(path, ingest, range(8, 11), project="6", category="session")
        for outcome in (BAD, OK, BROKEN, limited("600:session")):
            process.answer(process.send(), outcome)
        process.spool.drop([10], "removed")
        end(process)
        yield path


@pytest.fixture(scope="module")
def plain(ingest: Ingest) -> Iterator[Path]:
    """A spool with four fresh events of one lane."""
    with memory_directory() as directory:
        path = directory / "spool"
        discard(fill(path, ingest, range(11, 15), project="7").spool)
        yield path


@contextlib.contextmanager
def copied(template: Path) -> Iterator[Path]:
    with memory_directory() as directory:
        path = directory / "spool"
        shutil.copytree(template, path, ignore=shutil.ignore_patterns("wake", "write.turn"))
        path.chmod(0o700)
        yield path


def call(*arguments: str) -> tuple[int, str, str]:
    """The tool, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        ended(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as leaving,
    ):
        tool.main(list(arguments))
    code = leaving.value.code
    assert isinstance(code, int)
    for shown in (out.getvalue(), err.getvalue()):
        assert "Traceback" not in shown
        assert "unexpected error" not in shown, (arguments, shown)
    assert code in [*Exit]
    return code, out.getvalue(), err.getvalue()


def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def check_looks(path: Path) -> None:
    for command in COMMANDS:
        code, out, err = call(*command, "--spool", str(path))
        assert code in FINDINGS or (command[0] == "show" and code == Exit.ERROR), (command, err)
        assert len(err.splitlines()) <= 1
        if "--json" in command:
            for line in out.splitlines():
                json.loads(line, parse_constant=refuse)


@contextlib.contextmanager
def no_traceback_logged() -> Iterator[None]:
    """A line that says what is wrong is well; an exception nobody foresaw is not."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("raven.spool")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    unforeseen = [record.exc_info for record in records if record.exc_info]
    assert not unforeseen, unforeseen


def check_goes_on(path: Path, ingest: Ingest, *others: str) -> None:
    """An application sends to a destination of its own: its event arrives as it was, and so do
    these others."""
    with ended(), no_traceback_logged():
        transport = make_transport(path)
        try:
            event_id = send(transport, ingest.url)
            wait_until(lambda: {event_id, *others} <= {*ingest.event_ids()}, what="delivery")
        finally:
            transport.close(0.05)
    wanted = (event_id, *others)
    check_bodies([seen for seen in ingest.requests if seen.event_id in wanted])


# -- cells ----------------------------------------------------------------------------------------


HUGE_CLOCK = json.dumps({"boot_id": "", "up_seconds": 10**400, "at": 0, "spared_at": 0})


@lengths(short=30, long=300)
def test_any_cell_of_the_file_may_be_anything(
    template: Path, ingest: Ingest, examples: int
) -> None:
    @search(examples, wanted=st.lists(changes(), min_size=1, max_size=6), mends=st.booleans())
    @example(wanted=[Change("leadership", "", 0)], mends=False)
    @example(wanted=[Change("leadership", "epoch", 0, 1e999)], mends=False)
    @example(wanted=[Change("leadership", "leading", 0, None)], mends=False)
    @example(wanted=[Change("lanes", "open_at", row, 1e300) for row in range(4)], mends=False)
    @example(wanted=[Change("lanes", "open_at", row, None) for row in range(4)], mends=False)
    @example(wanted=[Change("lanes", "failures", row, 2**62) for row in range(4)], mends=False)
    @example(wanted=[Change("lanes", "accepted", 0, 1e999)], mends=False)
    @example(wanted=[Change("lanes", "bytes", row, None) for row in range(4)], mends=False)
    @example(wanted=[Change("lanes", "ready", 0, None)], mends=False)
    @example(wanted=[Change("drops", "reason", 0, b"\xff")], mends=False)
    @example(wanted=[Change("drops", "events", 0, 2**63 - 1)], mends=False)
    @example(wanted=[Change("sqlite_sequence", "seq", 0, b"x")], mends=False)
    @example(wanted=[Change("meta", "value", row, "[" * 3000) for row in range(3)], mends=False)
    @example(wanted=[Change("meta", "value", row, HUGE_CLOCK) for row in range(3)], mends=False)
    @example(wanted=[Change(EVENTS, "due", row, b"x") for row in range(4, 9)], mends=False)
    def check(wanted: list[Change], mends: bool) -> None:
        with copied(template) as path:
            apply(path, wanted, mends_checksums=mends)
            check_looks(path)
            check_goes_on(path, ingest)
            code, _, err = call("check", "--repair", "--spool", str(path))
            assert code in FINDINGS, err
            check_looks(path)


STRANDING = {"lane", "due", "status"}  # what keeps a row from being claimed, until it expires


@lengths(short=30, long=300)
def test_any_row_may_be_anything_and_the_others_are_delivered(
    plain: Path, ingest: Ingest, examples: int
) -> None:
    cells = changes().filter(lambda change: change.table == EVENTS and change.column)
    one_row = st.lists(
        cells.map(lambda change: dataclasses.replace(change, row=1)), min_size=1, max_size=3
    )

    @search(examples, wanted=one_row, mends=st.booleans())
    @example(wanted=[Change(EVENTS, "size", 1, None)], mends=False)
    def check(wanted: list[Change], mends: bool) -> None:
        ingest.forget()
        with copied(plain) as path:
            apply(path, wanted, mends_checksums=mends)
            check_goes_on(path, ingest, id_of(11), id_of(13), id_of(14))
            spool = Spool(str(path))
            found = {stored.id: stored for stored in spool.page()}
            discard(spool)
        assert found.keys() <= {2}
        if 2 in found and not STRANDING & {change.column for change in wanted}:
            assert found[2].state is State.DEAD
            assert found[2].reason


# -- files ----------------------------------------------------------------------------------------


@lengths(short=40, long=300)
def test_any_file_of_the_spool_may_be_anything(
    template: Path, ingest: Ingest, examples: int
) -> None:
    files = st.dictionaries(st.sampled_from(FILES), shapes, min_size=1, max_size=3).filter(
        # Then nobody can lead, and the log says what stands there.
        lambda files: files.get("drain.lock") not in ("directory", "link", "pipe")
    )

    @search(examples, files=files)
    @example(files={"drain.leader": b'{"pid": 1e999, "progress_at": 0, "busy_until": 0}'})
    @example(files={"drain.leader": b'{"pid": 9999999999, "progress_at": 0, "busy_until": 0}'})
    @example(files={"drain.leader": b'{"pid": 1, "progress_at": NaN, "busy_until": NaN}'})
    def check(files: dict[str, bytes | str]) -> None:
        with copied(template) as path:
            canary = path.parent / "canary"
            canary.write_text("untouched")
            for name, shape in files.items():
                replace(path / name, shape, canary)
            check_looks(path)
            check_goes_on(path, ingest)
            check_looks(path)
            assert canary.read_text() == "untouched"
            assert {one.name for one in path.parent.iterdir()} == {"spool", "canary"}


# -- what the operator says -----------------------------------------------------------------------

OPTIONS = (
    ("ls", "--since"), ("ls", "--limit"), ("ls", "--state"), ("ls", "--level"), ("ls", "--project"),
    ("stats", "--max-age"), ("flush", "--timeout"), ("flush", "--limit"),
    ("flush", "--concurrency"), ("flush", "--sender"),
)  # fmt: skip


@lengths(short=60, long=300)
def test_any_option_of_the_tool_is_taken_or_named(template: Path, examples: int) -> None:
    @search(examples, option=st.sampled_from(OPTIONS), text=option_texts)
    @example(option=("flush", "--timeout"), text="9" * 12)
    @example(option=("flush", "--timeout"), text="99999d")
    @example(option=("ls", "--since"), text="99999d")
    def check(option: tuple[str, str], text: str) -> None:
        command, name = option
        with copied(template) as path:
            code, _, err = call(command, f"{name}={text}", "--spool", str(path))
            if code == Exit.USAGE:
                assert one_line(repr(text)) in err or f"'{name}'" in err

    @search(
        examples,
        command=st.sampled_from([("show",), ("rm", "--yes"), ("retry",)]),
        text=option_texts | st.text("0123456789abcdef-", min_size=6),
    )
    def check_ids(command: tuple[str, ...], text: str) -> None:
        with copied(template) as path:
            code, _, err = call(*command, "--spool", str(path), "--", text)
            assert code in (Exit.DONE, Exit.ERROR, Exit.USAGE)
            if code == Exit.USAGE:
                assert one_line(repr(text)) in err
