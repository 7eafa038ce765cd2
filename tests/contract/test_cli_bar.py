"""A person at a terminal sees how far it has come; programs and cron see nothing of that."""

import contextlib
import io
import os
import subprocess
from collections.abc import Iterator
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
    finally:
        os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        return done.stdout.decode(), b"".join(read_all(terminal)).decode()


def read_all(terminal: io.FileIO) -> Iterator[bytes]:
    """A terminal whose other side is closed ends in an error."""
    with contextlib.suppress(OSError):
        while piece := terminal.read(1 << 16):
            yield piece


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
