"""A person at a terminal sees how far it has come; programs and cron see nothing of that."""

import os
import subprocess
from pathlib import Path

import pytest

from raven_spool.spool import Spool
from tests.support import tool
from tests.support.spools import HERE, discard, event


@pytest.fixture
def filled(path: Path) -> Path:
    spool = Spool(str(path))
    for number in range(1, 13):
        assert spool.enqueue(event(number), HERE)
    discard(spool)
    return path


def run_at_terminal(*args: str | Path) -> tuple[str, str]:
    """What went to stdout, a pipe, and to stderr, a terminal."""
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [tool.TOOL, *map(str, args)],
            env=tool.environment(TERM="xterm"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
            check=False,
        )
        return done.stdout.decode(), os.read(ours, 1 << 16).decode()
    finally:
        os.close(theirs)
        os.close(ours)


def test_check_shows_how_far_it_has_read(filled: Path) -> None:
    stdout, shown = run_at_terminal("check", "--spool", filled)
    assert stdout == "no fault found in 12 events\n"
    assert "reading" in shown
    assert "12/12" in shown


def test_flush_shows_how_far_it_has_delivered(filled: Path) -> None:
    _, shown = run_at_terminal("flush", "--spool", filled, "--timeout", "1")
    assert "delivering" in shown
    assert "/12" in shown


@pytest.mark.parametrize("command", ["check", "flush"])
def test_nobody_else_is_shown_a_bar(filled: Path, command: str) -> None:
    stderr = tool.run(command, "--spool", filled).stderr
    assert "reading" not in stderr
    assert "delivering" not in stderr
