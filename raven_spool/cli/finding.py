"""Which stored events are meant: by the number that `ls` shows, or by Sentry's event id.

There is no index on event ids: it would cost every enqueue, and delivery needs none. An event id
costs a search of the whole spool, in keyed pages and without the bodies; one search for all ids.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from raven_spool.spool import Key, Spool

_NUMBER = re.compile(r"[0-9]{1,18}")
_EVENT_ID = re.compile(r"[0-9a-f]{8,32}")
_PAGE_EVENTS = 10_000
_AT_ONCE = 500  # in one commit: 1 to 15 ms behind the gate, where applications wait
_TOLD = 5


@dataclass(frozen=True, slots=True)
class Found:
    keys: list[Key]  # none twice
    complaints: list[str]  # a line for each that was not found


def read_id(text: str) -> str:
    """An event's number, or its event id or the beginning of it.

    Raises:
        ValueError: it is neither.
    """
    name = text.strip().lower()
    if not (_NUMBER.fullmatch(name) or _EVENT_ID.fullmatch(_without_dashes(name))):
        raise ValueError(
            "is no event: a number as ls shows it, or an event id, "
            "of which the first 8 of 32 hex digits will do"
        )
    return name


def _without_dashes(name: str) -> str:
    return name.replace("-", "")  # never from a number: 1-3 is not 13


def find(spool: Spool, asked: Sequence[str]) -> Found:
    """The events of these ids, which `read_id` has read."""
    names = list(dict.fromkeys(asked))
    by_name = {name: _find_number(spool, name) for name in names}
    by_name.update(_search(spool, [name for name in names if not by_name[name]]))
    complaints = [
        _complain(spool, name, by_name[name]) for name in names if len(by_name[name]) != 1
    ]
    found = {keys[0].id: keys[0] for keys in by_name.values() if len(keys) == 1}
    return Found(list(found.values()), complaints)


def batches(keys: Sequence[Key]) -> Iterator[tuple[str, list[Key]]]:
    """As many as one commit may take, and the generation that they are of."""
    for generation, group in groupby(keys, key=lambda key: key.generation):
        same = list(group)
        for start in range(0, len(same), _AT_ONCE):
            yield generation, same[start : start + _AT_ONCE]


def _find_number(spool: Spool, name: str) -> list[Key]:
    if not _NUMBER.fullmatch(name):
        return []
    keys = spool.list_keys(after_id=int(name) - 1, limit=1)
    return [key for key in keys if key.id == int(name)]


def _search(spool: Spool, names: Sequence[str]) -> dict[str, list[Key]]:
    """For each name the events whose id begins so; not many more than can be told."""
    plain = {name: _without_dashes(name) for name in names}
    found: dict[str, list[Key]] = {
        start: [] for start in plain.values() if _EVENT_ID.fullmatch(start)
    }
    lengths = {len(start) for start in found}
    after = 0
    while found and (page := spool.list_keys(after_id=after, limit=_PAGE_EVENTS)):
        for key in page:
            for length in lengths:
                matches = found.get(key.event_id[:length])
                if matches is not None and len(matches) <= _TOLD:
                    matches.append(key)
        after = page[-1].id
    return {name: found.get(start, []) for name, start in plain.items()}


def _complain(spool: Spool, name: str, matches: list[Key]) -> str:
    if not matches:
        return (
            f"no event {name} in {spool.path}: it may be delivered; "
            "what is left is in `raven-spool ls`"
        )
    numbers = ", ".join(str(key.id) for key in matches[:_TOLD])
    more = " and more" if len(matches) > _TOLD else ""
    return f"{name} may be any of the events {numbers}{more}: name one by its number"
