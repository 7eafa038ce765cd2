"""Sentry's data categories: one table for what comes in (items) and what comes back (limits)."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    category: str
    items: frozenset[str]  # types of envelope items
    limits: frozenset[str]  # names in X-Sentry-Rate-Limits
    identified: bool = False  # Relay wants an event id for them, or invents one per request


def _kind(category: str, items: str, limits: str, *, identified: bool = False) -> _Kind:
    return _Kind(
        category=category,
        items=frozenset(items.split()),
        limits=frozenset(limits.split()),
        identified=identified,
    )


# The most valuable first: an envelope is what its most valuable item is.
# Relay's relay-server/src/envelope and relay-base-schema/src/data_category.rs
_KINDS = (
    _kind(
        "error",
        "event security raw_security unreal_report form_data nel",
        "error default security",
        identified=True,
    ),
    _kind("feedback", "feedback user_report", "feedback", identified=True),
    _kind("transaction", "transaction", "transaction", identified=True),
    _kind("check_in", "check_in", "monitor"),
    _kind("attachment", "attachment", "attachment attachment_item", identified=True),
    _kind("replay", "replay_event replay_recording replay_video", "replay", identified=True),
    _kind(
        "profile",
        "profile profile_chunk",
        "profile profile_ui profile_backend profile_chunk profile_chunk_ui",
    ),
    _kind("log_item", "log otel_log", "log_item log_byte"),
    _kind("span", "span otel_span", "span"),
    _kind("trace_metric", "trace_metric statsd metric_buckets", "trace_metric metric_bucket"),
    _kind("session", "session sessions", "session"),
    _kind("internal", "client_report", "internal"),
)

CATEGORIES = tuple(kind.category for kind in _KINDS)  # the most valuable first
_BY_LIMIT = {name: kind.category for kind in _KINDS for name in kind.limits}
_IDENTIFIED = frozenset[str]().union(*(kind.items for kind in _KINDS if kind.identified))


def category_of_items(types: Iterable[str]) -> str:
    present = set(types)
    # What we don't know yet is treated as the most valuable: it must not expire early.
    return next((kind.category for kind in _KINDS if kind.items & present), "error")


def category_of_limit(name: str) -> str | None:
    return _BY_LIMIT.get(name)


def wants_event_id(types: Iterable[str]) -> bool:
    return not _IDENTIFIED.isdisjoint(types)
