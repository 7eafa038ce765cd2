"""docs/backends.md says what is tested and what was measured."""

import json
import runpy

from tests.contract.transports.page import PAGE, find_table, list_contract, list_sizes
from tests.support.bugsink import ROOT


def test_the_page_has_the_contract_as_it_is_tested() -> None:
    assert find_table(PAGE.read_text(), "contract") == list(list_contract())


def test_the_page_has_the_lines_that_each_loop_added() -> None:
    assert find_table(PAGE.read_text(), "sizes") == list(list_sizes())


def test_the_page_has_the_figures_as_they_were_measured() -> None:
    list_cells = runpy.run_path(str(ROOT / "bench" / "_matrix.py"))["list_cells"]
    run = json.loads((ROOT / "docs" / "figures" / "backends.json").read_text())
    assert find_table(PAGE.read_text(), "backends") == list(list_cells(run))
    assert not run["quick"]
