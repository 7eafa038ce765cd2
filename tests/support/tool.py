"""Runs `raven-spool` as an operator does, and fills spools for it."""

import os
import subprocess
import sysconfig
import uuid
from pathlib import Path

from raven_spool.model import Destination, Event
from raven_spool.protocol import message_event, parse_dsn, prepare
from raven_spool.spool import Spool

TOOL = os.path.join(sysconfig.get_path("scripts"), "raven-spool")
WITHOUT_LOOPS = str(Path(__file__).parent / "without_loops")  # for PYTHONPATH
_WAYS = (
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"),
    *("ssl_cert_file", "requests_ca_bundle", "curl_ca_bundle", "lambda_task_root"),
)
KEY = "5ca1ab1e" * 4
SECRET = "c0ffee00" * 4


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would tell the tool of a spool or a server.

    KEPT_LOOPS names the event loops' libraries that a program needs: raven imports each of them
    that is installed, which takes half a second of every process.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAVEN_", "SENTRY_"))}
    path = os.pathsep.join([more.pop("PYTHONPATH", ""), WITHOUT_LOOPS])
    return {**kept, "COLUMNS": "200", "PYTHONPATH": path, "KEPT_LOOPS": "", **more}


def loop_of(runtime: str) -> str:
    """The library of a runtime's class, as KEPT_LOOPS has it: "gevent" of GeventRuntime."""
    return runtime.removesuffix("Runtime").lower()


def bare_environment(**more: str) -> dict[str, str]:
    """As `environment`, and without what would change the way to a server."""
    return {k: v for k, v in environment(**more).items() if k in more or k.lower() not in _WAYS}


def start(*args: str | Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [TOOL, *map(str, args)],
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Its end. No command may ever print a key, a secret or a traceback."""
    try:
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    for stream in (stdout, stderr):
        assert KEY not in stream
        assert SECRET not in stream
        assert "Traceback" not in stream
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return finish(start(*args, **env))


def destination(dsn: str) -> Destination:
    parsed = parse_dsn(dsn)
    return Destination(
        base_url=parsed.base_url,
        project=parsed.project,
        public_key=parsed.public_key,
        secret_key=parsed.secret_key,
    )


def make_event(text: str, *, created_at: float, level: str = "error") -> Event:
    event_id = uuid.uuid4().hex
    body, headers = message_event(text, level=level, now=created_at, event_id=event_id)
    return prepare(body, headers, endpoint="store", created_at=created_at, new_id=lambda: event_id)


def fill(path: Path, dsn: str, *texts: str, created_at: float, level: str = "error") -> list[str]:
    """Spool these events; returns their ids."""
    spool = Spool(str(path))
    events = [make_event(text, created_at=created_at, level=level) for text in texts]
    for event in events:
        assert spool.enqueue(event, destination(dsn), timeout_seconds=5)
    spool.finish()
    return [event.event_id for event in events]
