"""The contract's table for docs/backends.md, made from the tests themselves.

    python -m tests.contract.transports.page

writes it into the page; `test_page.py` holds the page to it.
"""

import inspect
import re
from collections.abc import Iterator
from types import FunctionType, ModuleType

from tests.contract.transports import (
    test_answers,
    test_deaths,
    test_in_send,
    test_trouble,
    test_ways,
)
from tests.contract.transports.rows import ROWS
from tests.support.bugsink import ROOT

PAGE = ROOT / "docs" / "backends.md"
MODULES = [test_answers, test_trouble, test_deaths, test_ways, test_in_send]


def list_contract() -> Iterator[str]:
    """A row for each scenario, a column for each transport."""
    yield "| scenario | " + " | ".join(row.name for row in ROWS) + " |"
    yield "|---" * (len(ROWS) + 1) + "|"
    for module in MODULES:
        for name, test in _list_tests(module):
            rows = _list_rows(test)
            what = " ".join((test.__doc__ or "").split())
            where = f"{module.__name__.rpartition('.')[2]}.py::{name}"
            cells = ["yes" if row.name in rows else "" for row in ROWS]
            yield f"| {what}<br>`{where}` | " + " | ".join(cells) + " |"


def _list_tests(module: ModuleType) -> Iterator[tuple[str, FunctionType]]:
    for name, found in vars(module).items():
        if name.startswith("test_") and inspect.isfunction(found):
            yield name, found


def _list_rows(test: FunctionType) -> set[str]:
    marks = {mark.args[0]: mark.args[1] for mark in test.pytestmark}  # type: ignore[attr-defined]
    return {row.name for row in marks["app"]}


def find_table(page: str, mark: str) -> list[str]:
    """What stands between `<!-- mark -->` and `<!-- /mark -->`."""
    found = re.search(f"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", page, re.DOTALL)
    assert found, f"the page has no place for {mark}"
    return found[1].splitlines()


def main() -> None:
    before, _, rest = PAGE.read_text().partition("<!-- contract -->\n")
    after = rest.partition("<!-- /contract -->")[2]
    table = "".join(f"{line}\n" for line in list_contract())
    PAGE.write_text(f"{before}<!-- contract -->\n{table}<!-- /contract -->{after}")


if __name__ == "__main__":
    main()
