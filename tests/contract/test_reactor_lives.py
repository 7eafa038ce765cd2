"""Transports and the life of Twisted's reactor."""

import json
import subprocess
import sys

import pytest

from tests.support import tool
from tests.support.answers import Gate, held, ok
from tests.support.bugsink import ROOT


def live(life, ingest, path):
    """The ids that the program captured; it must end by itself, and without a word."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.reactor_program", life],
        cwd=ROOT,
        env=tool.bare_environment(
            SENTRY_DSN=ingest.dsn(), RAVEN_SPOOL_PATH=str(path), KEPT_LOOPS="twisted"
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "life",
    [
        "sent_before_it_runs",
        "sent_inside",
        "sent_after_it",
        "in_a_thread",
        "awaited_ends",
        "flushed_inside",
        "closed_before_shutdown",
        "another_reactor",
    ],
)
def test_each_event_is_delivered_once(ingest, path, life):
    ids = live(life, ingest, path)
    assert ids
    assert sorted(ingest.event_ids()) == sorted(ids)


def test_reactor_that_stops_leaves_the_rest_to_others(ingest, path):
    gate = Gate()
    ingest.answer_with(held(gate), ok())
    ids = live("stopped_in_the_middle", ingest, path)
    gate.release()
    assert len(ids) == 10
    assert tool.run("flush", "--spool", path, "--quiet").returncode == 0
    assert set(ingest.event_ids()) >= set(ids)


def test_process_ends_though_its_transport_is_closed_too_late(ingest, path):
    assert live("closed_too_late", ingest, path) == []
