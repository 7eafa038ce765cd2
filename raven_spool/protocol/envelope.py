"""Envelopes: a header line of JSON, then items of a header line and a payload each.

https://develop.sentry.dev/sdk/foundations/transport/envelopes/
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from raven_spool.protocol.coding import dump_object, load_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    type: str
    payload: memoryview = field(repr=False)  # attachments are large: not copied

    def load(self) -> dict[str, Any] | None:
        return load_object(bytes(self.payload))


def load_header(envelope: bytes) -> dict[str, Any] | None:
    return load_object(envelope.partition(b"\n")[0])


def replace_header(envelope: bytes, header: dict[str, Any]) -> bytes:
    _, newline, items = envelope.partition(b"\n")
    return b"".join((dump_object(header), newline, items))


def iterate_items(envelope: bytes) -> Iterator[Item]:
    """Each item up to the first that can't be read: where the next one starts is not known."""
    at = _line_end(envelope, 0) + 1
    while at < len(envelope):
        line_end = _line_end(envelope, at)
        line, at = envelope[at:line_end], line_end + 1
        if not line.strip():
            continue
        header = load_object(line)
        if header is None:
            return
        stop = _payload_end(envelope, at, header.get("length"))
        yield Item(type=str(header.get("type")), payload=memoryview(envelope)[at:stop])
        at = stop + 1


def _line_end(envelope: bytes, at: int) -> int:
    end = envelope.find(b"\n", at)
    return len(envelope) if end < 0 else end


def _payload_end(envelope: bytes, at: int, length: object) -> int:
    if isinstance(length, int) and length >= 0:
        return min(at + length, len(envelope))
    return _line_end(envelope, at)
