"""Draws docs/figures/*.svg from the JSON of the benchmarks and fills docs/performance.md's tables.

.venv/bin/python bench/enqueue.py --out docs/figures/enqueue.json
.venv/bin/python bench/sealing.py --out docs/figures/sealing.json
.venv/bin/python bench/drain.py --out docs/figures/drain.json
.venv/bin/python bench/loops.py --out docs/figures/loops.json
.venv/bin/python bench/flood.py --out docs/figures/flood.json
.venv/bin/python bench/many.py --out docs/figures/many.json
.venv/bin/python bench/stampede.py --out docs/figures/stampede.json    (draws outage.svg itself)
.venv/bin/python bench/_plot.py
"""

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from _harness import describe_target

_DOCS = Path(__file__).resolve().parents[1] / "docs"
_PAGE = _DOCS / "performance.md"

_ROW, _TOP, _LEFT, _WIDE, _RIGHT = 26, 40, 480, 420, 30
_SCALE = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # times better than the target

Record = Mapping[str, Any]


def main() -> None:
    page = _PAGE.read_text()
    for name in ("enqueue", "sealing", "drain", "loops", "flood", "many", "stampede"):
        run = json.loads((_DOCS / "figures" / f"{name}.json").read_text())
        figures = [figure for figure in run["figures"] if describe_target(figure)]
        if figures:
            (_DOCS / "figures" / f"{name}.svg").write_text("\n".join(draw(figures)) + "\n")
        page = fill_in(page, name, "\n".join(list_figures(run["figures"])))
        page = fill_in(page, f"{name}-machine", "\n".join(list_conditions(run)))
    _PAGE.write_text(page)


def fill_in(page: str, mark: str, text: str) -> str:
    """Between `<!-- mark -->` and `<!-- /mark -->`."""
    pattern = re.compile(f"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    assert pattern.search(page), f"{_PAGE.name} has no place for {mark}"
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


# -- tables ---------------------------------------------------------------------------------------


def list_figures(figures: Sequence[Record]) -> Iterator[str]:
    yield "| figure | median | middle half of the rounds | target | |"
    yield "|---|---|---|---|---|"
    for figure in figures:
        target = describe_target(figure)
        met = ("met" if figure["is_met"] else "**missed**") if target else ""
        value = f"{figure['value']:.3g} {figure['unit']}"
        parts = ", ".join(f"{name} {part:.4g}" for name, part in figure["parts"].items())
        low, high = find_middle_half(figure["rounds"])
        half = f"{low:.3g} to {high:.3g}"
        yield f"| {figure['asks']}<br>{parts} | {value} | {half} | {target} | {met} |"


def list_conditions(run: Record) -> Iterator[str]:
    machine = run["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    how = "A quick run, for a first look, taken" if run["quick"] else "Taken"
    yield (
        f"{how} {run['taken_at']} on {machine['processors']} processors ({machine['processor']}), "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, load average "
        f"{machine['load_average']:.1f} at the end; Python {machine['python']}, SQLite "
        f"{machine['sqlite']}, {packages}."
    )
    for name, value in run["conditions"].items():
        yield f"- {name.replace('_', ' ')}: {value}"


def find_middle_half(rounds: Sequence[float]) -> tuple[float, float]:
    if len(rounds) < 2:
        return rounds[0], rounds[0]
    low, _, high = statistics.quantiles(rounds, n=4, method="inclusive")
    return low, high


# -- the plot: how many times better than its target each round was -------------------------------


def draw(figures: Sequence[Record]) -> Iterator[str]:
    height = _TOP + _ROW * len(figures) + 20
    width = _LEFT + _WIDE + _RIGHT
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12">'
    )
    yield f'<rect width="{width}" height="{height}" fill="white"/>'
    for mark in _SCALE:
        colour = "#c33" if mark == 1 else "#ddd"
        x = place(mark)
        yield f'<line x1="{x}" x2="{x}" y1="{_TOP - 8}" y2="{height - 16}" stroke="{colour}"/>'
        label = "target" if mark == 1 else f"{mark:g}x better" if mark > 1 else f"{mark:g}x"
        yield f'<text x="{x}" y="{_TOP - 14}" text-anchor="middle" fill="#555">{label}</text>'
    for row, figure in enumerate(figures):
        yield from draw_row(figure, _TOP + _ROW * row + _ROW / 2)
    yield "</svg>"


def draw_row(figure: Record, y: float) -> Iterator[str]:
    text = escape(f"{figure['asks']} ({describe_target(figure)})")
    yield f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end" font-size="10">{text}</text>'
    for one in figure["rounds"]:
        x = place(rate(figure, one))
        yield f'<circle cx="{x}" cy="{y}" r="3" fill="#48c" fill-opacity="0.35"/>'
    x = place(rate(figure, figure["value"]))
    yield f'<line x1="{x}" x2="{x}" y1="{y - 8}" y2="{y + 8}" stroke="#125" stroke-width="2.5"/>'


def rate(figure: Record, value: float) -> float:
    """1 is the target, more is better, whichever way round the figure is."""
    if figure["at_most"] is not None:
        return float(figure["at_most"] / value) if value > 0 else _SCALE[-1]
    return float(value / figure["at_least"])


def place(rating: float) -> float:
    low, high = math.log(_SCALE[0]), math.log(_SCALE[-1])
    share = (math.log(min(max(rating, _SCALE[0]), _SCALE[-1])) - low) / (high - low)
    return round(_LEFT + share * _WIDE, 1)


if __name__ == "__main__":
    main()
