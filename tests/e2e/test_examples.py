"""Each example as its reader runs it, and with raven's own imports: nothing else has to change."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from raven_spool.model import Destination
from raven_spool.spool import Spool
from tests.support import tool
from tests.support.answers import slow, status
from tests.support.bugsink import ROOT
from tests.support.ingest import Ingest

# Where the server answers, a busy machine may take its time to deliver.
PATIENCE = {"RAVEN_SPOOL_SHUTDOWN_TIMEOUT": "60"}
# raven imports eventlet where it is installed, and eventlet warns whoever imports it.
QUIET = {"PYTHONWARNINGS": "ignore:::raven.transport.eventlet,ignore:::__main__"}
OUTAGE = re.compile(r"http://127.0.0.1:.* events wait in the spool\n")
EVENT_ID = re.compile(r"\b[0-9a-f]{32}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a program printed, and how it ended."""

    stdout: str
    stderr: str
    returncode: int

    @property
    def event_ids(self) -> list[str]:
        return EVENT_ID.findall(self.stdout)

    @property
    def said(self) -> str:
        """Its output without the ids."""
        return EVENT_ID.sub("ID", self.stdout)


class Stage:
    """A spool, and programs that use it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool_path = directory / "spool"

    def run_example(self, name: str, dsn: str, **env: str) -> Ran:
        loop = name.partition("_")[0]
        return self.run("-m", f"examples.{name}", SENTRY_DSN=dsn, KEPT_LOOPS=loop, **env)

    def run_with_ravens_imports(self, name: str, dsn: str, **env: str) -> Ran:
        program = self.directory / f"{name}.py"
        program.write_text(use_ravens_imports((ROOT / "examples" / f"{name}.py").read_text()))
        return self.run(str(program), SENTRY_DSN=dsn, **env)

    def run(self, *arguments: str, **env: str) -> Ran:
        ran = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=tool.environment(RAVEN_SPOOL_PATH=str(self.spool_path), **QUIET, **env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(stdout=ran.stdout, stderr=ran.stderr, returncode=ran.returncode)

    def spooled(self) -> dict[str, Destination]:
        """The events in the spool, the dead ones too, and where they are to go."""
        if not self.spool_path.exists():
            return {}
        spool = Spool(str(self.spool_path))
        page = spool.page(after_id=0, limit=100)
        spool.finish()
        return {stored.event.event_id: stored.destination for stored in page}


def use_ravens_imports(source: str) -> str:
    """The same program of a raven user: `raven_spool.transport` is `raven.transport` there."""
    changed, count = re.subn(
        r"^from raven_spool\.transport\b", "from raven.transport", source, flags=re.MULTILINE
    )
    assert count
    assert "raven_spool." not in re.sub(r'""".*?"""', "", changed, flags=re.DOTALL)
    return changed


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as server:
        yield server


@pytest.fixture
def absent_dsn() -> str:
    """Of a server that has gone: its port refuses."""
    with Ingest() as server:
        return server.dsn()


def assert_is_well(ran: Ran) -> None:
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


def assert_met_an_outage(ran: Ran) -> None:
    """All is well, and one line says that the server is away."""
    assert ran.returncode == 0, ran.stderr
    assert OUTAGE.fullmatch(ran.stderr)


# -- custom timeouts ------------------------------------------------------------------------------


def test_custom_timeouts_wait_longer_at_the_end_than_the_default(
    stage: Stage, ingest: Ingest
) -> None:
    ingest.answer_with(slow(2.5))
    ran = stage.run_example("custom_timeouts", ingest.dsn())
    assert_is_well(ran)
    assert ran.said == "reported as ID\n"
    assert ingest.event_ids() == ran.event_ids
    assert stage.spooled() == {}


def test_custom_timeouts_are_kept_with_the_event(stage: Stage, ingest: Ingest) -> None:
    ingest.answer_with(status(400))
    ran = stage.run_example("custom_timeouts", ingest.dsn())
    spooled = stage.spooled()
    assert list(spooled) == ran.event_ids
    assert [one.timeout_seconds for one in spooled.values()] == [10.0]


def test_custom_timeouts_are_more_than_raven_can(stage: Stage, absent_dsn: str) -> None:
    ran = stage.run_with_ravens_imports("custom_timeouts", absent_dsn)
    assert ran.returncode == 1
    assert "unexpected keyword argument 'shutdown_timeout'" in ran.stderr


# -- a transport with retries ---------------------------------------------------------------------

RAVENS_REGISTRATION = """
import raven
from examples.retrying_transport import RetryingTransport as Retrying
{register}
raven.Client.register_scheme("retrying+https", Retrying)
try:
    raven.Client.register_scheme("https", Retrying)
except Exception as error:
    print(type(error).__name__)
client = raven.Client({dsn!r})
print(type(client.remote.get_transport()).__name__, client.captureMessage("late"))
"""


def test_retrying_transport_serves_https_and_tries_three_times_more(stage: Stage) -> None:
    with Ingest(tls=True) as ingest:
        ingest.answer_with(status(503), status(503), status(503), status(200))
        ran = stage.run_example(
            "retrying_transport", ingest.dsn(), REQUESTS_CA_BUNDLE=ingest.ca_file
        )
        assert_is_well(ran)
        failures = [f"attempt {number} failed: HTTPError" for number in (1, 2, 3)]
        assert ran.said.splitlines() == [*failures, "reported as ID"]
        assert ingest.event_ids() == ran.event_ids
        assert {seen.event_id for seen in ingest.requests} == set(ran.event_ids)
        at = [seen.at for seen in ingest.requests]
    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True)), pauses
    assert not stage.spool_path.exists()


def test_retrying_transport_gives_up_after_the_third_retry(stage: Stage) -> None:
    with Ingest(tls=True) as ingest:
        ingest.answer_with(status(503))
        ran = stage.run_example(
            "retrying_transport", ingest.dsn(), REQUESTS_CA_BUNDLE=ingest.ca_file
        )
        assert ran.returncode == 0
        assert len(ingest.requests) == 4
    assert "Sentry responded with an error: 503" in ran.stderr


@pytest.mark.parametrize(
    "register", ["", "import raven_spool; raven_spool.register()"], ids=["raven", "ours"]
)
def test_a_scheme_registered_as_raven_can_works_before_and_after(
    stage: Stage, register: str
) -> None:
    with Ingest(tls=True) as ingest:
        dsn = "retrying+" + ingest.dsn()
        program = RAVENS_REGISTRATION.format(register=register, dsn=dsn)
        ran = stage.run(
            "-W",
            "ignore:Transport selection via DSN is deprecated",
            "-c",
            program,
            REQUESTS_CA_BUNDLE=ingest.ca_file,
        )
        assert_is_well(ran)
        assert ran.said.splitlines() == ["DuplicateScheme", "RetryingTransport ID"]
        assert ingest.event_ids() == ran.event_ids


# -- choosing by the environment ------------------------------------------------------------------

choices = pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "ThreadedHTTPTransport"),
        ({"SENTRY_TRANSPORT": "requests"}, "RequestsHTTPTransport"),
        ({"SENTRY_TRANSPORT": "threaded-requests"}, "ThreadedRequestsHTTPTransport"),
        ({"LAMBDA_TASK_ROOT": "/var/task"}, "HTTPTransport"),
    ],
    ids=["nothing", "requests", "threaded-requests", "lambda"],
)


@choices
def test_choose_transport_obeys_the_environment(
    stage: Stage, ingest: Ingest, env: dict[str, str], expected: str
) -> None:
    ran = stage.run_example("choose_transport", ingest.dsn(), **PATIENCE | env)
    assert_is_well(ran)
    assert ran.said == f"{expected} reported it as ID\n"
    assert ingest.event_ids() == ran.event_ids


@choices
def test_choose_transport_is_ravens_program_but_for_the_imports(
    stage: Stage, ingest: Ingest, env: dict[str, str], expected: str
) -> None:
    ran = stage.run_with_ravens_imports("choose_transport", ingest.dsn(), **env)
    assert_is_well(ran)
    assert ran.said == f"{expected} reported it as ID\n"
    assert ingest.event_ids() == ran.event_ids


# -- errors ---------------------------------------------------------------------------------------

REPORT_WITH_BAD_OPTION = """
import functools, raven
from examples.handle_errors import HTTPTransport, report
transport = functools.partial(HTTPTransport, shutdown_timeout=-1)
report(raven.Client(raise_send_errors=True, transport=transport), "late")
"""


def test_handle_errors_hears_nothing_of_a_server_that_is_away(
    stage: Stage, absent_dsn: str
) -> None:
    ran = stage.run_example("handle_errors", absent_dsn)
    assert_met_an_outage(ran)
    assert ran.said == "reported as ID\n"
    assert list(stage.spooled()) == ran.event_ids


def test_handle_errors_hears_what_nothing_can_mend(stage: Stage, absent_dsn: str) -> None:
    ran = stage.run("-c", REPORT_WITH_BAD_OPTION, SENTRY_DSN=absent_dsn)
    assert_is_well(ran)
    assert ran.said.startswith(
        "not reported: ConfigurationError: option shutdown_timeout=-1: must be"
    )


def test_handle_errors_with_ravens_imports_hears_of_the_server(
    stage: Stage, absent_dsn: str
) -> None:
    ran = stage.run_with_ravens_imports("handle_errors", absent_dsn)
    assert_is_well(ran)
    assert ran.said.startswith("not reported: URLError: ")


def test_handle_errors_with_ravens_imports_reports(stage: Stage, ingest: Ingest) -> None:
    ran = stage.run_with_ravens_imports("handle_errors", ingest.dsn())
    assert_is_well(ran)
    assert ingest.event_ids() == ran.event_ids


# -- a sender of one's own ------------------------------------------------------------------------


def test_own_sender_sends_what_the_spool_holds(stage: Stage, ingest: Ingest) -> None:
    ran = stage.run_example("own_sender", ingest.dsn(), **PATIENCE)
    assert_is_well(ran)
    assert ran.said == "reported as ID\n"
    assert ingest.event_ids() == ran.event_ids
    assert [seen.headers["x-department"] for seen in ingest.requests] == ["night orders"]
    assert stage.spooled() == {}


def test_own_sender_leaves_what_it_could_not_send_to_cron(stage: Stage) -> None:
    with Ingest() as ingest:
        ingest.stop()
        ran = stage.run_example("own_sender", ingest.dsn())
        assert_met_an_outage(ran)
        assert list(stage.spooled()) == ran.event_ids
        ingest.start()
        flushed = tool.run(
            "flush",
            "--spool",
            stage.spool_path,
            "--sender",
            "examples.own_sender:GatewayTransport",
            PYTHONPATH=str(ROOT),
        )
        assert flushed.returncode == 0, flushed.stderr
        assert ingest.event_ids() == ran.event_ids
        assert [seen.headers["x-department"] for seen in ingest.requests] == ["orders"]


# -- one program for each framework ---------------------------------------------------------------

frameworks = pytest.mark.parametrize(
    "name",
    [
        "gevent_workers",
        "eventlet_workers",
        "twisted_errback",
        "tornado_handler",
        "asyncio_tasks",
        "starlette_app",
    ],
)


def assert_took_ten_orders(ran: Ran, *, delivered: int) -> None:
    *reports, summary = ran.said.splitlines()
    orders = [f"order {number}: not found; reported as ID" for number in range(1, 11)]
    assert sorted(reports) == sorted(orders)  # greenlets and tasks end in any order
    assert summary == f"captured 10, delivered {delivered}"
    assert len(set(ran.event_ids)) == 10


@frameworks
def test_program_of_a_framework_delivers_before_it_ends(
    stage: Stage, ingest: Ingest, name: str
) -> None:
    ran = stage.run_example(name, ingest.dsn(), **PATIENCE)
    assert_is_well(ran)
    assert_took_ten_orders(ran, delivered=10)
    assert sorted(ingest.event_ids()) == sorted(ran.event_ids)
    assert stage.spooled() == {}


@frameworks
def test_program_of_a_framework_leaves_what_it_could_not_send_to_cron(
    stage: Stage, name: str
) -> None:
    with Ingest() as ingest:
        ingest.stop()
        ran = stage.run_example(name, ingest.dsn(), RAVEN_SPOOL_SHUTDOWN_TIMEOUT="0.5")
        assert ran.returncode == 0, ran.stderr
        # It may have ended before the first attempt did.
        assert ran.stderr == "" or OUTAGE.fullmatch(ran.stderr), ran.stderr
        assert_took_ten_orders(ran, delivered=0)
        assert sorted(stage.spooled()) == sorted(ran.event_ids)
        ingest.start()
        flushed = tool.run("flush", "--spool", stage.spool_path)
        assert flushed.returncode == 0, flushed.stderr
        assert sorted(ingest.event_ids()) == sorted(ran.event_ids)
