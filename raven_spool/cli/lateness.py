"""Why events wait longer than they may: the line of `stats --max-age`, for Nagios and cron."""

from typing import Any

from raven_spool.cli import words

_TOLD = 3


def explain_lateness(figures: dict[str, Any], max_age_seconds: float, now: float) -> str:
    """What is wrong with what `stats --json` shows, "" if no ready event is older than that."""
    oldest_at = figures["oldest_at"]
    if oldest_at is None or now - oldest_at <= max_age_seconds:
        return ""
    late = f"{words.events(figures['ready'])} ready, the oldest for {words.span(now - oldest_at)}"
    return f"{late}: {'; '.join(_reasons(figures)) or 'they are being delivered'}"


def _reasons(figures: dict[str, Any]) -> list[str]:
    leader = figures["leader"]
    if leader is not None and leader["stalled"]:
        return [f"process {leader['pid']} leads and does not move"]
    held = [
        f"{entry['host']}, project {entry['project']}: {hold['reason']}"
        for entry in figures["destinations"]
        if entry["ready"]
        for hold in entry["held"]
    ]
    if held:
        more = [f"and {len(held) - _TOLD} more"] if len(held) > _TOLD else []
        return held[:_TOLD] + more
    return [] if leader is not None else ["nobody delivers them: run raven-spool flush"]
