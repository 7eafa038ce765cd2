"""docs/reliability.md and the README say what docs/figures/*.json say, of each promise."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.evidence import PROMISES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """bench/_page.py, which is no package's."""
    before = {*sys.modules}
    monkeypatch.syspath_prepend(ROOT / "bench")
    import _page

    yield _page
    for name in {*sys.modules} - before:
        if name.startswith("_"):
            del sys.modules[name]


def read_figures(name: str) -> dict[str, list[dict[str, int]]]:
    figures: dict[str, list[dict[str, int]]] = json.loads(
        (ROOT / "docs" / "figures" / f"{name}.json").read_text()
    )
    return figures


@pytest.mark.parametrize("page", ["docs/reliability.md", "README.md"])
def test_the_pages_hold_what_was_measured(maker: ModuleType, page: str) -> None:
    text = (ROOT / page).read_text()
    assert maker.fill(text) == text


@pytest.mark.parametrize("number", PROMISES)
def test_each_promise_has_been_tried(number: int) -> None:
    assert number in {row["promise"] for row in read_figures("faults")["rows"]}
    assert number in {row["promise"] for row in read_figures("reliability")["scenarios"]}


def test_the_page_names_the_promises_as_the_tests_do() -> None:
    stated = re.findall(r"^(\d)\. \*\*(.+?)\.?\*\*", PAGE, re.MULTILINE)
    assert {int(number): name for number, name in stated} == PROMISES


ROW = {"what": "kills", "promise": 1, "tried": "9 kills", "events": 5, "lost": 0, "twice": 1}
REPORT = '<testsuites><testsuite tests="7" failures="{failed}" skipped="2" time="90"/></testsuites>'


def test_the_last_of_the_same_words_counts(maker: ModuleType) -> None:
    lines = [json.dumps({**ROW, "tried": tried, "seen": ""}) for tried in ("9 kills", "90 kills")]
    record = maker.gather("\n".join(lines), REPORT.format(failed=0))
    assert [row["tried"] for row in record["rows"]] == ["90 kills"]
    assert record["conditions"]["fault_tests"] == 5


def test_a_run_that_failed_is_not_published(maker: ModuleType) -> None:
    with pytest.raises(SystemExit, match="1 failed"):
        maker.gather(json.dumps(ROW), REPORT.format(failed=1))
