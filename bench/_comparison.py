"""The table of bench/reliability.py: a row for each trouble, a column for each contestant."""

from collections.abc import Iterator, Mapping
from typing import Any

from _matrix import describe_cell

Record = Mapping[str, Any]


def list_scenarios(run: Record) -> Iterator[str]:
    yield "| | " + " | ".join(one["name"] for one in run["contestants"]) + " |"
    yield "|---" * (len(run["contestants"]) + 1) + "|"
    for scenario in run["scenarios"]:
        cells = [describe(one["cells"].get(scenario["key"])) for one in run["contestants"]]
        yield f"| {scenario['promise']}. {scenario['title']} | " + " | ".join(cells) + " |"


def describe(cell: Record | None) -> str:
    if cell is None:
        return "not installed"
    if "why" in cell:
        return f"({cell['why']})"
    if "counts" in cell:
        return describe_cell(cell["counts"], {"should_arrive": True})
    return "<br>".join(f"{value} {name}" for name, value in cell["measured"].items())
