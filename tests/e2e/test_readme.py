"""The README's quick starts, run as they stand there: only the address and the path are ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tool
from tests.support.bugsink import ROOT
from tests.support.ingest import Ingest

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ADDRESS, PATH = "https://KEY@sentry.example.com/1", "/var/spool/myapp"

# By a word of the block: what stands before it in a program, and what the program does then.
AROUND = {
    "raven_spool.register()": ("", "transport = client.remote.get_transport()"),
    "spool_path=": (
        "import raven",
        "client.captureMessage('hello'); transport = client.remote.get_transport()",
    ),
    "RAVEN_CONFIG": (
        "INSTALLED_APPS = []",
        """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=INSTALLED_APPS, RAVEN_CONFIG=RAVEN_CONFIG, DATABASES={})
django.setup()
from raven.contrib.django.models import client
client.captureMessage("hello")
transport = client.remote.get_transport()
""",
    ),
    "SENTRY_TRANSPORT": (
        "from flask import Flask; app = Flask('shop')",
        """
app.add_url_rule("/", view_func=lambda: 1 / 0)
assert app.test_client().get("/").status_code == 500
transport = sentry.client.remote.get_transport()
""",
    ),
    "register_signal": (
        "import raven; from raven_spool import SpoolTransport",
        """
from celery import Celery
app = Celery("shop")
app.conf.task_always_eager = True
def fail(): 1 / 0
app.task(fail, name="fail").delay()
transport = client.remote.get_transport()
""",
    ),
    "aclose()": (
        "import raven",
        "import asyncio; asyncio.run(main()); transport = client.remote.get_transport()",
    ),
}


def test_each_block_of_the_readme_is_known():
    assert len(PYTHON) == len(AROUND)
    for word, block in zip(AROUND, PYTHON, strict=True):
        assert word in block


@pytest.mark.parametrize("word", AROUND)
def test_quick_start_delivers(word, tmp_path: Path):
    before, after = AROUND[word]
    block = PYTHON[list(AROUND).index(word)]
    with Ingest() as ingest:
        block = block.replace(ADDRESS, ingest.dsn()).replace(PATH, str(tmp_path / "spool"))
        program = "\n".join(
            (before, f"dsn = {ingest.dsn()!r}", block, after, "assert transport.flush(10)")
        )
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env=tool.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        assert len(ingest.event_ids()) == 1
    assert (tmp_path / "spool" / "current").exists()


def test_shell_lines_deliver(tmp_path: Path):
    assert "raven-spool send -m" in README
    with Ingest() as ingest:
        env = {"SENTRY_DSN": ingest.dsn(), "RAVEN_SPOOL_PATH": str(tmp_path / "spool")}
        sent = tool.run("send", "-m", "is anybody there?", **env)
        assert sent.returncode == 0, sent.stderr
        assert len(ingest.event_ids()) == 1
        assert tool.run("stats", **env).returncode == 0


def test_options_of_the_readme_are_the_options():
    from raven_spool.config import READERS

    table = README[README.index("| option | default |") :]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))
    assert sorted(READERS) == sorted(set(told) & set(READERS))


def test_links_of_the_readme_lead_somewhere():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
