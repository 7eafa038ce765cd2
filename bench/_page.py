"""Fills docs/reliability.md, and the README's line of it.

.venv/bin/python bench/reliability.py --out docs/figures/reliability.json
make faults      (writes docs/figures/faults.json, by --evidence and --tests)
.venv/bin/python bench/_page.py
"""

import argparse
import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _cells import ROOT
from _comparison import list_scenarios
from _harness import describe_machine
from _plot import fill_in, list_conditions

from tests.support.evidence import PROMISES

DOCS = ROOT / "docs"
_FAULTS = DOCS / "figures" / "faults.json"
_COMPARED = DOCS / "figures" / "reliability.json"
_COUNTED = ("tests", "skipped", "failures", "errors")

Record = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evidence", type=Path, help="what the tests noted, a JSON line each")
    parser.add_argument("--tests", type=Path, help="pytest's own report of that run, as JUnit XML")
    parser.add_argument("--quick", action="store_true", help="it was the short form of the tests")
    arguments = parser.parse_args()
    if arguments.evidence:
        texts = arguments.evidence.read_text(), arguments.tests.read_text()
        record = gather(*texts, quick=arguments.quick)
        _FAULTS.write_text(json.dumps(record, indent=1) + "\n")
    for page in (DOCS / "reliability.md", ROOT / "README.md"):
        page.write_text(fill(page.read_text()))


def fill(page: str) -> str:
    """The page with all its marks filled from the JSON files."""
    faults, compared = (json.loads(path.read_text()) for path in (_FAULTS, _COMPARED))
    texts = {
        "faults-sum": [describe_sum(faults)],
        "faults": list_rows(faults["rows"]),
        "faults-machine": list_conditions(faults),
        "compared": list_scenarios(compared),
        "compared-machine": list_conditions(compared),
    }
    for mark, lines in texts.items():
        if f"<!-- {mark} -->" in page:
            page = fill_in(page, mark, "\n".join(lines))
    return page


def gather(evidence: str, report: str, *, quick: bool = False) -> dict[str, Any]:
    """The record of one run of the fault tests.

    Raises:
        SystemExit: a test failed.
    """
    tests = count_tests(report)
    if tests["failed"]:
        raise SystemExit(f"not published: {tests['failed']} failed")
    return {
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": quick,
        "machine": describe_machine(),
        "conditions": tests,
        "rows": keep_longest(json.loads(line) for line in evidence.splitlines()),
    }


def keep_longest(rows: Iterable[Record]) -> list[Record]:
    """By promise; of rows with the same words the one of most events, which is the long form's."""
    longest: dict[tuple[int, str], Record] = {}
    for row in sorted(rows, key=lambda row: row["events"] or 0):
        longest[row["promise"], row["what"]] = row
    groups: dict[tuple[int, str], list[Record]] = {}
    for promise, what in sorted(longest):
        group = groups.setdefault((promise, what.partition(": ")[0]), [])
        group.append(longest[promise, what])
    return [add_up(what, group) for (_, what), group in groups.items()]


def add_up(what: str, rows: Sequence[Record]) -> Record:
    """One row of several whose words differ behind a colon only."""
    if len(rows) == 1:
        return rows[0]
    sums = {part: sum(row[part] or 0 for row in rows) for part in ("events", "lost", "twice")}
    ways = ", ".join(row["what"].partition(": ")[2] for row in rows)
    return {**rows[0], **sums, "what": f"{what}: {ways}", "tried": f"{len(rows)} ways"}


def count_tests(report: str) -> dict[str, int]:
    suites = list(ElementTree.fromstring(report).iter("testsuite"))
    counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in _COUNTED}
    return {
        "fault_tests": counts["tests"] - counts["skipped"],
        "failed": counts["failures"] + counts["errors"],
        "skipped": counts["skipped"],
        "minutes": round(sum(float(suite.get("time", 0)) for suite in suites) / 60),
    }


# -- what the page says ---------------------------------------------------------------------------


def list_rows(rows: Iterable[Record]) -> Iterator[str]:
    yield "| promise | what was tried | how often | events | lost | twice | seen |"
    yield "|---|---|---|---|---|---|---|"
    before = None
    for row in rows:
        promise = row["promise"]
        name = f"**{promise}. {PROMISES[promise]}**" if promise != before else ""
        counts = " | ".join(show_count(row[part]) for part in ("events", "lost", "twice"))
        yield f"| {name} | {row['what']} | {row['tried']} | {counts} | {row['seen']} |"
        before = promise


def show_count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def describe_sum(faults: Record) -> str:
    counted = [row for row in faults["rows"] if row["lost"] is not None]
    events, lost = (sum(row[part] or 0 for row in counted) for part in ("events", "lost"))
    which = "short" if faults["quick"] else "long"
    losing = [row for row in counted if row["lost"]]
    where = f" (in {len(losing)} of {len(counted)} rows, which say why)" if losing else ""
    return (
        f"The {which} fault tests ({faults['conditions']['fault_tests']} of them) last counted "
        f"{events:,} events through kills, stops, floods, full disks and broken files: "
        f"{lost:,} lost{where}."
    )


if __name__ == "__main__":
    main()
