"""Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/."""

from collections.abc import Iterator
from typing import Any

_Sample = tuple[dict[str, str], float]


def render(figures: dict[str, Any]) -> str:
    return "".join(
        f"# HELP raven_spool_{name} {text}\n# TYPE raven_spool_{name} {kind}\n"
        + "".join(f"raven_spool_{name}{_labels(labels)} {value}\n" for labels, value in samples)
        for name, kind, text, samples in _metrics(figures)
    )


def _metrics(figures: dict[str, Any]) -> Iterator[tuple[str, str, str, list[_Sample]]]:
    for name, text in (
        ("accepted", "Events committed to the spool."),
        ("delivered", "Events a server took."),
        ("dropped", "Events dropped by a rule."),
    ):
        yield f"{name}_total", "counter", text, [({}, figures[name])]
    for name, text in (
        ("ready", "Events that wait for delivery."),
        ("dead", "Dead letters."),
        ("bytes", "Bytes of the events that are kept."),
        ("used_bytes", "What they take of the file."),
        ("max_bytes", "What the file may grow to."),
        ("max_events", "How many events may be kept, 0 for no limit."),
    ):
        yield name, "gauge", text, [({}, figures[name])]
    if figures["oldest_at"] is not None:
        text = "When the oldest ready event was captured."
        yield "oldest_timestamp_seconds", "gauge", text, [({}, figures["oldest_at"])]
    stalled = int(bool(figures["leader"] and figures["leader"]["stalled"]))
    yield "leader_stalled", "gauge", "1 if who delivers does not move.", [({}, stalled)]
    alarm = int(bool(figures["alarm"]))
    yield "alarm", "gauge", "1 if events wait too long, or only grow more.", [({}, alarm)]
    yield from _by_destination(figures["destinations"])


def _by_destination(
    entries: list[dict[str, Any]],
) -> Iterator[tuple[str, str, str, list[_Sample]]]:
    def samples(name: str) -> list[_Sample]:
        return [
            (
                {"host": entry["host"], "project": entry["project"]},
                len(entry[name]) if name == "held" else entry[name],
            )
            for entry in entries
        ]

    yield "destination_ready", "gauge", "Ready events of a destination.", samples("ready")
    yield "destination_dead", "gauge", "Dead letters of a destination.", samples("dead")
    yield "destination_held", "gauge", "Holds that keep a destination closed.", samples("held")


def _labels(labels: dict[str, str]) -> str:
    inside = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
