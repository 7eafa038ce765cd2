"""DSNs and endpoint URLs. What is refused is never echoed: it may hold a key or a password."""

import functools
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlsplit

from raven_spool.errors import ConfigurationError

_ENDPOINT_PATH = re.compile(r"(.*)/api/([^/]+)/(store|envelope)/?")
_UNSENDABLE = re.compile(r"[^!-~]")  # what no request line or header field can carry


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedDsn:
    """A DSN in its parts, split as raven's `RemoteConfig.from_string` splits it."""

    base_url: str
    project: str
    public_key: str = field(repr=False)
    secret_key: str | None = field(repr=False)
    options: dict[str, str]


@functools.lru_cache(maxsize=256)  # a client has one
def parse_endpoint(url: str) -> tuple[str, str, str]:
    """The base URL, the project and "store" or "envelope", of the URL a client posts to.

    Raises:
        ConfigurationError: it is no such URL.
    """
    parts = _split(url)
    match = parts and _ENDPOINT_PATH.fullmatch(parts.path)
    if not parts or not match or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(
            "endpoint URL: can't be used; expected http(s)://HOST/api/PROJECT/store/ or /envelope/"
        )
    return _base_url("endpoint URL", parts, match[1]), match[2], match[3]


def parse_dsn(dsn: str) -> ParsedDsn:
    """A DSN in its parts. A transport in front of the scheme (`threaded+https`) is dropped.

    Raises:
        ConfigurationError: a part is missing or can't be used; the text says which.

    Source:
        raven 6.10.0, raven/conf/remote.py
    """
    parts = _split(dsn)
    if parts is None:
        raise ConfigurationError("DSN: the host or port can't be used")
    path, _, project = parts.path.rpartition("/")
    base_url = _base_url("DSN", parts, path)
    key, secret = parts.username or "", parts.password or None
    if not key:
        raise ConfigurationError(
            "DSN: the public key is missing: it stands before the host, with an @ between"
        )
    if "," in key + (secret or "") or _UNSENDABLE.search(key + (secret or "")):
        raise ConfigurationError("DSN: the key has characters that no header can carry")
    if not project:
        raise ConfigurationError(
            "DSN: the project is missing: it stands behind the host, after the last /"
        )
    return ParsedDsn(
        base_url=base_url,
        project=project,
        public_key=key,
        secret_key=secret,
        options=dict(parse_qsl(parts.query)),
    )


def _split(url: str) -> SplitResult | None:
    # The caller raises, outside of `except`: urllib's own messages quote the credentials.
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        return None
    return parts


def _base_url(subject: str, parts: SplitResult, path: str) -> str:
    scheme = parts.scheme.rpartition("+")[2]
    if scheme not in ("http", "https"):
        # Not echoed: of "KEY:SECRET@HOST/1", the scheme is the key.
        raise ConfigurationError(f"{subject}: the scheme is missing or neither http nor https")
    if not parts.hostname:
        raise ConfigurationError(f"{subject}: the host is missing")
    if _UNSENDABLE.search(parts.path) or re.search(r"[\x00-\x20\x7f]", parts.hostname):
        raise ConfigurationError(f"{subject}: a space, control or non-ASCII character in the path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{scheme}://{host}{port}{path.rstrip('/')}"
