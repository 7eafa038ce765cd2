"""Fills docs/backends.md from docs/figures/backends.json.

.venv/bin/python bench/backends.py --out docs/figures/backends.json
.venv/bin/python bench/_matrix.py
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).resolve().parents[1] / "docs"

Record = Mapping[str, Any]


def main() -> None:
    from _plot import fill_in, list_conditions

    run = json.loads((_DOCS / "figures" / "backends.json").read_text())
    page = (_DOCS / "backends.md").read_text()
    page = fill_in(page, "backends", "\n".join(list_cells(run)))
    page = fill_in(page, "backends-machine", "\n".join(list_conditions(run)))
    (_DOCS / "backends.md").write_text(page)


def list_cells(run: Record) -> Iterator[str]:
    """A table: a row for each transport, a column for each scenario."""
    scenarios = run["scenarios"]
    yield "| transport | " + " | ".join(one["title"] for one in scenarios) + " |"
    yield "|---" * (len(scenarios) + 1) + "|"
    for contestant in run["contestants"]:
        cells = [f"{contestant['loop']} is not installed", *[""] * (len(scenarios) - 1)]
        if contestant["cells"]:
            cells = [describe_cell(contestant["cells"][one["key"]], one) for one in scenarios]
        yield f"| {contestant['name']} | " + " | ".join(cells) + " |"


def describe_cell(cell: Record, scenario: Record) -> str:
    lost = cell["captured"] - cell["arrived"] - cell["kept"] - cell["raised"]
    marks = [
        f"**{cell['arrived']} leaked**"
        if cell["arrived"] and not scenario["should_arrive"]
        else "",
        f"{cell['kept']} kept" if cell["kept"] else "",
        f"**{lost} lost**" if lost else "",
        f"{cell['twice']} twice" if cell["twice"] else "",
        f"**{cell['raised']} raised**" if cell["raised"] else "",
        "**hung**" if cell["hung"] else "",
        f"**{cell['astray']} astray**" if cell["astray"] else "",
    ]
    return "<br>".join([f"{cell['arrived']}/{cell['captured']}", *filter(None, marks)])


if __name__ == "__main__":
    main()
