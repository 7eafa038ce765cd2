"""The contract's table for docs/backends.md, made from the tests themselves, and what a loop costs.

    python -m tests.contract.transports.page

writes both into the page; `test_page.py` holds the page to them.
"""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

from tests.contract.transports import (
    test_answers,
    test_deaths,
    test_in_send,
    test_loops,
    test_trouble,
    test_ways,
)
from tests.contract.transports.rows import ROWS
from tests.support.bugsink import ROOT

PAGE = ROOT / "docs" / "backends.md"
MODULES = [test_answers, test_trouble, test_deaths, test_ways, test_in_send, test_loops]


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
    return {found.id for found in marks["app"]}


# What a loop's library added beside its transport's class and its row in `backends.BACKENDS`.
SOURCES = {
    "gevent": ["runtimes/gevent.py", "senders/gevent.py"],
    "eventlet": ["runtimes/eventlet.py", "senders/eventlet.py"],
    "asyncio": ["runtimes/asyncio.py", "senders/aiohttp.py"],
    "Tornado": ["runtimes/tornado.py", "senders/tornado.py"],
    "Twisted": ["runtimes/twisted.py", "senders/twisted.py", "senders/_twisted_tunnel.py"],
    "shared by all": ["runtimes/loop.py"],
    "shared by the green": ["senders/_network.py"],
    "shared by the awaited": ["senders/_awaited.py"],
}


def list_sizes() -> Iterator[str]:
    """A row for each loop: lines of code, without comments, docstrings and empty ones."""
    yield "| loop | runtime | sender | together |"
    yield "|---|---|---|---|"
    for name, files in SOURCES.items():
        rooms = {"runtimes": 0, "senders": 0}
        for file in files:
            rooms[file.partition("/")[0]] += count_code(ROOT / "raven_spool" / file)
        cells = [name, *(str(lines or "") for lines in rooms.values()), str(sum(rooms.values()))]
        yield f"| {' | '.join(cells)} |"


def count_code(path: Path) -> int:
    text = path.read_text()
    told = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    said = {
        line
        for token in tokens
        if token.type not in silent and token.type != tokenize.ENDMARKER
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(said - told)


def find_table(page: str, mark: str) -> list[str]:
    """What stands between `<!-- mark -->` and `<!-- /mark -->`."""
    found = re.search(f"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", page, re.DOTALL)
    assert found, f"the page has no place for {mark}"
    return found[1].splitlines()


def main() -> None:
    page = PAGE.read_text()
    for mark, lines in (("contract", list_contract()), ("sizes", list_sizes())):
        before, _, rest = page.partition(f"<!-- {mark} -->\n")
        after = rest.partition(f"<!-- /{mark} -->")[2]
        table = "".join(f"{line}\n" for line in lines)
        page = f"{before}<!-- {mark} -->\n{table}<!-- /{mark} -->{after}"
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
