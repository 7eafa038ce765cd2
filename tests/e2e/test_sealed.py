"""The main job with bodies sealed at rest: real raven, a real server, kill -9, keys that change."""

import secrets
from pathlib import Path

import pytest

from tests.e2e.test_main_job import RAVEN_SPOOL, SUDDEN, Stage, assert_is_quiet
from tests.support import evidence
from tests.support.bugsink import BugsinkServer

pytestmark = pytest.mark.e2e

KEY = "RAVEN_SPOOL_ENCRYPTION_KEY"
KILLED = SUDDEN[-1]
PLAIN = (b"OrderFailed", b"order 1 failed", b"capturing_program")  # of what is captured


@pytest.mark.evidence
def test_sealed_events_of_killed_programs_are_drained_by_flush_with_the_keys(
    absent_server: BugsinkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(absent_server, tmp_path)
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    captured = []
    for keys in (old, f"{new},{old}"):
        monkeypatch.setenv(KEY, keys)
        ran = stage.run_program(30, KILLED)
        assert_is_quiet(ran, KILLED)
        captured += ran.event_ids
    assert len(set(captured)) == 60
    stored = b"".join(file.read_bytes() for file in stage.spool.rglob("*") if file.is_file())
    assert not any(words in stored for words in (*PLAIN, old.encode(), bytes.fromhex(old)))

    stage.server.start()
    for keys, code in (("", 75), (secrets.token_hex(32), 75), ("hunter2", 78)):
        monkeypatch.setenv(KEY, keys)
        refused = stage._run([RAVEN_SPOOL, "flush", "--spool", str(stage.spool)])
        assert refused.returncode == code, refused.stderr
        assert KEY in refused.stderr or "encryption_key" in refused.stderr
        assert "hunter2" not in refused.stderr
        assert stage.posted_ids() == []

    monkeypatch.setenv(KEY, f"{new},{old}")
    stage.run_tool("flush")
    stage.server.wait_for(stage._earlier + 60)
    assert sorted(stage.delivered_ids()) == sorted(captured)
    assert sorted(map(str, stage.posted_ids())) == sorted(captured)
    assert stage.list_events() == []
    evidence.note(
        "bodies sealed, programs of raven killed, the key changed between; Bugsink is the judge",
        promise=8, tried="2 kills, 3 flushes without the key", events=60, lost=0, twice=0,
    )  # fmt: skip
