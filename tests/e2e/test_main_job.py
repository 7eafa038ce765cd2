"""The main job with nothing replaced: real raven, a real server, real deaths of the program.

Every loss and every duplicate would show in the server's own database or in its log of POSTs.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.capturing_program import LEVELS
from tests.support.bugsink import ROOT, BugsinkServer

pytestmark = pytest.mark.e2e

PROGRAM = str(Path(__file__).with_name("capturing_program.py"))
RAVEN_SPOOL = str(Path(sys.executable).with_name("raven-spool"))
SECRET = "s3cr3t-of-the-dsn"
SHUTDOWN_SECONDS = 2.0  # SpoolTransport's default shutdown_timeout
SLACK_SECONDS = 2.0  # an interpreter's own end, on a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a program left behind."""

    returncode: int
    stdout: str
    stderr: str
    event_ids: list[str]
    ending_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A way for a program to end, and what Python itself makes of it."""

    name: str
    returncodes: tuple[int, ...]
    tracebacks: int = 0  # the application's own, printed by Python
    captures: int = 0  # more events: raven's hook for exceptions that nobody caught


ORDERLY = [
    Ending(name="return", returncodes=(0,)),
    Ending(name="exit", returncodes=(3,)),
    Ending(name="thread", returncodes=(0,), tracebacks=1),
    Ending(name="uncaught", returncodes=(1,), tracebacks=1, captures=1),
    # CPython ends by SIGINT, or with 1 where some eval(), say namedtuple's, ran after the Ctrl-C
    # (pythonrun.c resets unhandled_keyboard_interrupt).
    Ending(name="interrupt", returncodes=(-2, 1), tracebacks=1, captures=1),
]
SUDDEN = [
    Ending(name="os._exit", returncodes=(4,)),
    Ending(name="kill", returncodes=(-9,)),
]


class Stage:
    """One program, one spool and the tool, all aimed at one server."""

    def __init__(self, server: BugsinkServer, directory: Path) -> None:
        self.server = server
        self.spool = directory / "spool"
        self._diary = directory / "diary"
        self._earlier = server.count()
        self._earlier_posts = len(server.posts())

    def run_program(
        self, number: int, ending: Ending, *, shutdown_seconds: float = SHUTDOWN_SECONDS
    ) -> Ran:
        arguments = [str(number), ending.name, str(self.spool), str(self._diary)]
        ran = self._run(
            [sys.executable, PROGRAM, *arguments],
            RAVEN_SPOOL_SHUTDOWN_TIMEOUT=str(shutdown_seconds),
        )
        ended_at = time.monotonic()
        *event_ids, end = self._diary.read_text().splitlines()
        return Ran(
            returncode=ran.returncode,
            stdout=ran.stdout,
            stderr=ran.stderr,
            event_ids=event_ids,
            ending_seconds=ended_at - float(end.removeprefix("end ")),
        )

    def run_tool(self, *arguments: str) -> str:
        ran = self._run([RAVEN_SPOOL, *arguments, "--spool", str(self.spool)])
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def list_events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.run_tool("ls", "--json").splitlines()]

    def listed_ids(self) -> list[object]:
        return [event["event_id"] for event in self.list_events()]

    def delivered_ids(self) -> list[str]:
        return self.server.event_ids()[self._earlier :]

    def posted_ids(self) -> list[str | None]:
        return [post.event_id for post in self.server.posts()[self._earlier_posts :]]

    def _run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        dsn = self.server.dsn.replace("@", f":{SECRET}@")
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"SENTRY_DSN": dsn} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        key = dsn.removeprefix("http://").partition(":")[0]
        assert key not in ran.stdout + ran.stderr
        assert SECRET not in ran.stdout + ran.stderr
        return ran


@pytest.fixture
def stage(server: BugsinkServer, tmp_path: Path) -> Stage:
    return Stage(server, tmp_path)


@pytest.fixture
def stage_in_outage(absent_server: BugsinkServer, tmp_path: Path) -> Stage:
    return Stage(absent_server, tmp_path)


def assert_is_quiet(ran: Ran, ending: Ending) -> None:
    assert ran.returncode in ending.returncodes, ran.stderr
    assert ran.stdout == ""
    assert ran.stderr.count("Traceback") == ending.tracebacks, ran.stderr


@pytest.mark.parametrize("ending", SUDDEN, ids=lambda ending: ending.name)
def test_outage_and_sudden_death_lose_and_repeat_nothing(
    stage_in_outage: Stage, ending: Ending
) -> None:
    stage = stage_in_outage
    ran = stage.run_program(200, ending)
    assert_is_quiet(ran, ending)
    assert len(set(ran.event_ids)) == 200

    events = stage.list_events()
    assert [event["event_id"] for event in events] == ran.event_ids
    assert [event["title"] for event in events] == [
        f"OrderFailed: order {index} failed" for index in range(200)
    ]
    assert [event["level"] for event in events] == [
        LEVELS[index % len(LEVELS)] for index in range(200)
    ]
    assert {event["state"] for event in events} == {"ready"}

    stage.server.start()
    stage.run_tool("flush", "--concurrency", "1")
    assert stage.delivered_ids() == ran.event_ids
    assert stage.posted_ids() == ran.event_ids
    assert stage.listed_ids() == []


@pytest.mark.parametrize("ending", ORDERLY, ids=lambda ending: ending.name)
def test_orderly_end_with_the_server_up_has_delivered_all(stage: Stage, ending: Ending) -> None:
    ran = stage.run_program(10, ending, shutdown_seconds=30)
    assert_is_quiet(ran, ending)
    delivered = stage.delivered_ids()
    assert set(ran.event_ids) <= set(delivered)
    assert len(delivered) == len(ran.event_ids) + ending.captures
    assert sorted(map(str, stage.posted_ids())) == sorted(delivered)
    assert stage.listed_ids() == []


@pytest.mark.parametrize("ending", ORDERLY, ids=lambda ending: ending.name)
def test_orderly_end_in_an_outage_is_soon_and_loses_nothing(
    stage_in_outage: Stage, ending: Ending
) -> None:
    stage = stage_in_outage
    ran = stage.run_program(10, ending)
    assert_is_quiet(ran, ending)
    assert ran.ending_seconds < SHUTDOWN_SECONDS + SLACK_SECONDS
    listed = stage.listed_ids()
    assert listed[: len(ran.event_ids)] == ran.event_ids
    assert len(listed) == len(ran.event_ids) + ending.captures

    stage.server.start()
    stage.run_tool("flush", "--concurrency", "1")
    assert stage.delivered_ids() == listed
    assert stage.posted_ids() == listed


@pytest.mark.parametrize("ending", SUDDEN, ids=lambda ending: ending.name)
def test_sudden_death_with_the_server_up_loses_nothing(stage: Stage, ending: Ending) -> None:
    ran = stage.run_program(50, ending)
    assert_is_quiet(ran, ending)
    stage.run_tool("flush")
    assert sorted(stage.delivered_ids()) == sorted(ran.event_ids)
    assert stage.listed_ids() == []
