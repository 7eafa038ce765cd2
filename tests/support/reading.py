"""How the scripted ingest reads a request: headers, body, and the event's id within."""

import gzip
import json
import zlib
from contextlib import suppress
from typing import IO


def read_headers(stream: IO[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    while (line := stream.readline(65536).strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


def read_body(stream: IO[bytes], headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return _read_exactly(stream, int(headers.get("content-length", 0)))
    chunks = []
    while size := int(stream.readline(100).partition(b";")[0], 16):
        chunks.append(_read_exactly(stream, size))
        stream.readline(100)
    stream.readline(100)
    return b"".join(chunks)


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    got = stream.read(size)
    if len(got) < size:
        raise OSError("the client left in the middle of its body")
    return got


def decode_body(raw: bytes, encoding: str) -> bytes:
    """The body as it was before compression; empty if it can't be read."""
    with suppress(zlib.error, OSError, EOFError):
        if encoding == "gzip":
            return gzip.decompress(raw)
        if encoding == "deflate":
            return zlib.decompress(raw)
        return raw
    return b""


def find_event_id(body: bytes) -> str | None:
    """From an envelope's first line, or from a store body, which is one line as well."""
    try:
        head = json.loads(body.partition(b"\n")[0] or b"null")
    except ValueError:
        return None
    found = head.get("event_id") if isinstance(head, dict) else None
    return found.replace("-", "") if isinstance(found, str) else None
