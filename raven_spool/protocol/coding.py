"""Content encodings, and JSON that may be anything."""

import functools
import json
import zlib
from typing import Any

from raven_spool.model import Headers

MAX_DECODED_BYTES = 200 * 1024 * 1024  # Relay's limit for an envelope; a bomb ends here

# RFC 1952: magic, deflate, no flags, no time (equal events stay equal), no extra flags, OS unknown
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_ZLIB_HEADER_BYTES = 2  # RFC 1950; a preset dictionary would make it six, but does not inflate here
_ZLIB_TRAILER_BYTES = 4  # adler32
_RAW, _ZLIB, _GZIP = -zlib.MAX_WBITS, zlib.MAX_WBITS, zlib.MAX_WBITS | 16


def decode(body: bytes, headers: Headers) -> tuple[bytes, Headers, bytes]:
    """The body and headers as they should travel, and the body without its content encoding.

    A `deflate` body travels in a gzip container around the same stream: every server reads gzip,
    and some read `deflate` as a bare stream (Bugsink 2.6 answers 400 to raven's zlib bodies).

    Raises:
        ValueError: another encoding, broken, or more than `MAX_DECODED_BYTES`.
    """
    match content_encoding(headers):
        case "" | "identity":
            return body, headers, body
        case "gzip" | "x-gzip":
            return body, headers, _inflate(body, _GZIP)
        case "deflate":
            stream, decoded = _inflate_deflate(body)
            return _gzip_container(stream, decoded), as_gzip(headers), decoded
    raise ValueError("unknown content encoding")


def encode(decoded: bytes, headers: Headers) -> tuple[bytes, Headers]:
    return zlib.compress(decoded, wbits=_GZIP), as_gzip(headers)


def content_encoding(headers: Headers) -> str:
    values = (value for name, value in headers if name.lower() == "content-encoding")
    return next(values, "").strip().lower()


@functools.lru_cache(maxsize=256)
def as_gzip(headers: Headers) -> Headers:
    others = (pair for pair in headers if pair[0].lower() != "content-encoding")
    return (*others, ("Content-Encoding", "gzip"))


def load_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object in `text`, or None if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # the latter: "[[[[..."
        return None
    return value if isinstance(value, dict) else None


def dump_object(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _inflate_deflate(body: bytes) -> tuple[bytes, bytes]:
    try:
        return body[_ZLIB_HEADER_BYTES:-_ZLIB_TRAILER_BYTES], _inflate(body, _ZLIB)
    except ValueError:
        return body, _inflate(body, _RAW)


def _inflate(body: bytes, wbits: int) -> bytes:
    inflater = zlib.decompressobj(wbits)
    try:
        decoded = inflater.decompress(body, MAX_DECODED_BYTES + 1)
    except zlib.error:
        raise ValueError("broken compressed body") from None
    if len(decoded) > MAX_DECODED_BYTES:
        raise ValueError("decodes to more than the limit")
    if not inflater.eof or inflater.unused_data:
        raise ValueError("cut short, or followed by something else")
    return decoded


def _gzip_container(stream: bytes, decoded: bytes) -> bytes:
    crc32 = zlib.crc32(decoded).to_bytes(4, "little")
    length = (len(decoded) & 0xFFFFFFFF).to_bytes(4, "little")
    return b"".join((_GZIP_HEADER, stream, crc32, length))
