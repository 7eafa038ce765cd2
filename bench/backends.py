"""What arrives: this package's transports and raven 6.10.0's own, through the same troubles.

Each cell is a program of its own that captures events with one transport while the server is in
some state, and ends. Then the server is well, the program runs once more and captures one event,
and for a transport with a spool `raven-spool flush` runs, as cron would. Counted is what became of
the events of the first program.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from _cells import AT_ONCE, ROOT, Cell, bare_environment, mend, run_to_its_end
from _harness import describe_machine, read_arguments, scratch_directory
from _matrix import list_cells

from tests.support import tool
from tests.support.answers import reset, silence, status, too_many
from tests.support.ingest import Ingest
from tests.support.proxy import Proxy

_EVENTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A transport; with `spools` it has a spool that can be flushed."""

    name: str
    transport: str
    spools: bool = False
    query: str = ""
    loop: str | None = None  # the library in whose loop it captures


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A state of the server while the program captures; afterwards the server is well."""

    key: str
    title: str
    trouble: Callable[[Ingest], object] = lambda server: None
    ending: str = "exit"
    options: dict[str, str] = field(default_factory=dict)  # in the DSN, as raven's users write them
    tls: bool = False
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    proxied: bool = False
    should_arrive: bool = True


def _ours(module: str, name: str, loop: str | None = None) -> Contestant:
    transport = f"raven_spool.transport.{module}:{name}"
    return Contestant(name=name, transport=transport, spools=True, loop=loop)


def _ravens(module: str, name: str, loop: str | None = None) -> Contestant:
    transport = f"raven.transport.{module}:{name}"
    return Contestant(name=f"raven's {name}", transport=transport, loop=loop)


CONTESTANTS = [
    _ours("http", "HTTPTransport"),
    _ours("requests", "RequestsHTTPTransport"),
    _ours("threaded", "ThreadedHTTPTransport"),
    _ours("threaded_requests", "ThreadedRequestsHTTPTransport"),
    _ours("gevent", "GeventedHTTPTransport", "gevent"),
    _ours("eventlet", "EventletHTTPTransport", "eventlet"),
    _ours("twisted", "TwistedHTTPTransport", "twisted"),
    _ours("tornado", "TornadoHTTPTransport", "tornado"),
    _ours("asyncio", "AsyncioHTTPTransport", "asyncio"),
    _ours("spool", "SpoolTransport"),
    Contestant(
        name="SpoolTransport, `backend=none`",
        transport="raven_spool:SpoolTransport",
        spools=True,
        query="backend=none",
    ),
    _ravens("http", "HTTPTransport"),
    _ravens("requests", "RequestsHTTPTransport"),
    _ravens("threaded", "ThreadedHTTPTransport"),
    _ravens("threaded_requests", "ThreadedRequestsHTTPTransport"),
    _ravens("gevent", "GeventedHTTPTransport", "gevent"),
    _ravens("eventlet", "EventletHTTPTransport", "eventlet"),
    _ravens("twisted", "TwistedHTTPTransport", "twisted"),
    _ravens("tornado", "TornadoHTTPTransport", "tornado"),
]

SCENARIOS = [
    Scenario(key="well", title="server up"),
    Scenario(key="kill", title="up, SIGKILL at the end", ending="kill"),
    Scenario(key="away", title="server away", trouble=lambda server: server.stop()),
    Scenario(key="500", title="500", trouble=lambda server: server.answer_with(status(500))),
    Scenario(key="429", title="429", trouble=lambda server: server.answer_with(too_many("1"))),
    Scenario(key="reset", title="reset", trouble=lambda server: server.answer_with(reset())),
    Scenario(
        key="silent",
        title="silent",
        trouble=lambda server: server.answer_with(silence()),
        options={"timeout": "1"},
    ),
    Scenario(key="private-ca", title="`ca_certs`", tls=True),
    Scenario(
        key="wrong-name",
        title="wrong host name",
        tls=True,
        names=("elsewhere.example",),
        should_arrive=False,
    ),
    Scenario(
        key="unverified",
        title="`verify_ssl=0`",
        tls=True,
        names=("elsewhere.example",),
        options={"verify_ssl": "0"},
    ),
    Scenario(key="proxy", title="`http_proxy`", proxied=True),
]


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    count = 5 if arguments.quick else _EVENTS
    with scratch_directory(arguments.dir) as directory:
        contestants = [
            {
                "name": contestant.name,
                "transport": contestant.transport,
                "loop": contestant.loop,
                "cells": measure(contestant, count, directory),
            }
            for contestant in CONTESTANTS
        ]
    record = {
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": arguments.quick,
        "machine": describe_machine(),
        "conditions": {"events_of_each_program": count},
        "scenarios": [
            {"key": one.key, "title": one.title, "should_arrive": one.should_arrive}
            for one in SCENARIOS
        ],
        "contestants": contestants,
    }
    print("\n".join(list_cells(record)))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def measure(contestant: Contestant, count: int, directory: Path) -> dict[str, Any]:
    """A cell for each scenario; none where the library it needs is not installed."""
    if contestant.loop and importlib.util.find_spec(contestant.loop) is None:
        return {}

    def fill(scenario: Scenario) -> dict[str, Any]:
        place = directory / f"{contestant.transport}-{contestant.query}-{scenario.key}"
        place.mkdir()
        return asdict(go_through(contestant, scenario, count, place))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        cells = pool.map(fill, SCENARIOS)
        return {one.key: cell for one, cell in zip(SCENARIOS, cells, strict=True)}


# -- one cell -------------------------------------------------------------------------------------


def go_through(contestant: Contestant, scenario: Scenario, count: int, place: Path) -> Cell:
    run = _Run(contestant, place)
    with (
        Ingest(tls=scenario.tls, names=scenario.names) as server,
        Proxy() if scenario.proxied else nullcontext() as proxy,
    ):
        environ = {"http_proxy": proxy.url} if proxy else {}
        dsn = run.dsn(server, scenario)
        scenario.trouble(server)
        run.capture(dsn, count, scenario.ending, environ)
        first = run.diary.read_text().splitlines()
        mend(server)
        run.capture(dsn, 1, "exit", environ)
        if contestant.spools:
            run.flush(environ)
        times = Counter(server.event_ids())
        passed = len(proxy.passed) if proxy else sum(times.values())
    ids = [line for line in first if not line.startswith("raised ")]
    return Cell(
        captured=count,
        arrived=sum(one in times for one in ids),
        twice=sum(times[one] > 1 for one in ids),
        kept=len(run.list_kept() & set(ids)),
        raised=len(first) - len(ids),
        astray=max(0, sum(times.values()) - passed),
        hung=run.hung,
    )


class _Run:
    def __init__(self, contestant: Contestant, place: Path) -> None:
        self.diary = place / "diary"
        self.hung = False
        self._contestant = contestant
        self._spool = place / "spool"

    def dsn(self, server: Ingest, scenario: Scenario) -> str:
        options = dict(scenario.options)
        if scenario.tls and "verify_ssl" not in options:
            options["ca_certs"] = server.ca_file
        if self._contestant.spools:
            options["spool_path"] = str(self._spool)
        parts = (urlencode(options), self._contestant.query)
        return f"{server.dsn()}?{'&'.join(filter(None, parts))}"

    def capture(self, dsn: str, count: int, ending: str, environ: dict[str, str]) -> None:
        told = {
            "transport": self._contestant.transport,
            "dsn": dsn,
            "count": count,
            "ending": ending,
            "loop": self._contestant.loop,
            "diary": str(self.diary),
        }
        program = [sys.executable, str(ROOT / "bench" / "_capturing.py"), json.dumps(told)]
        self._run(program, environ)

    def flush(self, environ: dict[str, str]) -> None:
        self._run(self._tool("flush", "--timeout", "5"), environ)

    def list_kept(self) -> set[str]:
        if not self._contestant.spools:
            return set()
        done = subprocess.run(
            self._tool("ls", "--json", "--limit", "1000"),
            env=_environment({}),
            check=True,
            capture_output=True,
            text=True,
        )
        return {json.loads(line)["event_id"] for line in done.stdout.splitlines()}

    def _tool(self, command: str, *arguments: str) -> list[str]:
        return [tool.TOOL, command, "--spool", str(self._spool), *arguments]

    def _run(self, command: list[str], environ: dict[str, str]) -> None:
        self.hung |= not run_to_its_end(command, _environment(environ))


def _environment(more: dict[str, str]) -> dict[str, str]:
    return bare_environment(KEPT_LOOPS="eventlet gevent tornado twisted", **more)


if __name__ == "__main__":
    main()
