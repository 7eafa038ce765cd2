"""The options, their defaults, and the only reader of environment and option strings."""

import base64
import binascii
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from raven_spool.errors import ConfigurationError

log = logging.getLogger("raven.spool")

_DAY = 86400.0
_MOST_DAYS = 100_000  # of waiting: no lock takes 292 years
_KEY_BYTES = 32
_UNUSABLE_KEYS = (b"",)  # nothing can be sealed with these
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SPANS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": _DAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user can set. Sizes in bytes, times in seconds."""

    spool_path: str | None = None
    group: int | None = None
    backend: str = "auto"
    fsync: str = "everysec"
    concurrency: int = 4
    timeout: float = 5.0
    verify_ssl: bool = True
    ca_certs: str | None = None
    proxy: str | None = field(default=None, repr=False)  # may hold a password
    sender: Any = None
    shutdown_timeout: float = 2.0
    send_timeout: float | None = None  # the backend's
    # None: as another program has set it for this spool, else 512 MiB, no limit, "drop_oldest".
    max_bytes: int | None = None
    max_events: int | None = None
    overflow: str | None = None
    encryption_key: tuple[bytes, ...] = field(default=(), repr=False)
    max_age: float = 30 * _DAY
    warn_age: float = 3600.0
    order: str = "oldest"
    on_server_error: str = "retry"
    on_rate_limit: str = "hold"
    wait: Callable[..., float] | None = None
    stop: Callable[..., bool] | None = None
    on_delivered: Callable[..., None] | None = None
    on_dead: Callable[..., None] | None = None


def read_options(
    given: Mapping[str, Any], environ: Mapping[str, str] = os.environ, *, strict: bool = False
) -> Options:
    """Options from keywords or a DSN's query, then RAVEN_SPOOL_<NAME>, then the defaults.

    A bad value that is no string raises: it stands in the program. A bad or unknown string is
    logged and the default used: raven builds transports at the first capture and swallows what
    they raise, so that every event would be dropped. `strict` raises for strings too.

    Raises:
        ConfigurationError: names the option, the value and what is allowed.
    """
    values: dict[str, Any] = {}
    stated = {name: value for name, value in given.items() if value is not None}
    for name, value in {**_from_environment(environ), **stated}.items():
        try:
            values[name] = read_option(name, value)
        except ConfigurationError as error:
            if strict or not isinstance(value, str):
                raise
            if name == "encryption_key":  # never in the clear what was to be sealed
                values[name] = _UNUSABLE_KEYS
                log.error("%s; no event goes to the disk, they wait in memory", error)
            else:
                log.error("%s; the default is used", error)
    return Options(**values)


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in READERS:
        variable = "RAVEN_SPOOL_" + ("PATH" if name == "spool_path" else name.upper())
        if environ.get(variable):
            found[name] = environ[variable]
    return found


def read_option(name: str, value: object) -> object:
    """One option's value as the program uses it. Raises ConfigurationError."""
    reader = READERS.get(name)
    if reader is None:
        raise ConfigurationError(
            f"unknown option {name!r} (value {_show(name, value)}): the options are "
            + ", ".join(READERS)
        )
    try:
        return reader(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigurationError(f"option {name}={_show(name, value)}: {error}") from None


def _show(name: str, value: object) -> str:
    return "(hidden)" if name in ("proxy", "encryption_key") else repr(value)[:80]


def default_spool_path(environ: Mapping[str, str] = os.environ) -> str:
    """systemd's state directory, else the user's; the machine's for a user without a home."""
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return os.path.join(state or _state_directory(), "raven-spool")


def _state_directory() -> str:
    from platformdirs import user_state_dir

    try:
        found = user_state_dir()
    except RuntimeError:  # a user id without a name, as containers have them, and no HOME
        found = ""
    return found if os.path.isabs(found) else "/var/lib"


# -- readers: what a value may be, native or as a string ------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("must be a string")
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError("must be a string, not empty")
    return text


def _path(value: object) -> str:
    return os.path.abspath(os.path.expanduser(_text(value)))


def _group(value: object) -> int:
    """A group's id, from that or from its name."""
    number = -1
    if isinstance(value, str):
        number = _find_group(value.strip())
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if not 0 <= number < 0xFFFF_FFFF:
        raise ValueError("must be the name or the number of a group of this machine")
    return number


def _find_group(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text[:11])
    import grp

    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        return -1


def _choice(*allowed: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in allowed:
            raise ValueError("must be one of " + ", ".join(allowed))
        return value

    return read


def _seconds(value: object, *, least: float = 0.0) -> float:
    number = math.nan
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value.lower())
        if match:
            number = float(match[1]) * _SPANS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    if not (math.isfinite(number) and number >= least and (least or number >= 0)):
        raise ValueError("must be a number of seconds, or like 90s, 5m, 12h, 30d")
    return number


def _above_0(value: object) -> float:
    number = _seconds(value)
    if number <= 0:
        raise ValueError("must be a number of seconds above 0")
    return number


def _wait(value: object) -> float:
    number = _seconds(value)
    if number > _MOST_DAYS * _DAY:
        raise ValueError(f"must be {_MOST_DAYS}d at most")
    return number


def _timeout(value: object) -> float:
    return _wait(_above_0(value))


def _bytes(value: object) -> int:
    number = -1
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)i?b?\s*", value.lower())
        if match and math.isfinite(size := float(match[1]) * _SIZES[match[2]]):
            number = int(size)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number < 1 << 20:
        raise ValueError("must be a size of at least 1MiB, like 512MiB or 2GB")
    return number


def _events(value: object) -> int:
    text = str(value).strip() if not isinstance(value, bool) else ""
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ValueError("must be a whole number, 0 for no limit")
    return int(text)


def _keys(value: object) -> tuple[bytes, ...]:
    """Keys of 32 bytes, as bytes or as text: the first seals, all open."""
    given = value.split(",") if isinstance(value, str) else value
    if isinstance(given, bytes):
        given = [given]
    keys = tuple(map(_key, given)) if isinstance(given, (list, tuple)) else ()
    if not keys or any(len(key) != _KEY_BYTES for key in keys):
        raise ValueError("must be keys of 32 bytes in base64 or hex, with commas between")
    return keys


def _key(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    text = str(value).strip()
    try:
        if len(text) == 2 * _KEY_BYTES:
            return bytes.fromhex(text)
        return base64.b64decode(text.translate({45: 43, 95: 47}), validate=True)  # URL-safe too
    except (ValueError, binascii.Error):
        return b""


def _workers(value: object) -> int:
    text = str(value).strip() if not isinstance(value, bool) else ""
    if not text.isascii() or not text.isdigit() or len(text) > 15 or not 1 <= int(text) <= 64:
        raise ValueError("must be a whole number from 1 to 64")
    return int(text)


def _flag(value: object) -> bool:
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be 1 or 0, true or false")


def _callable(value: object) -> object:
    if not callable(value):
        raise ValueError("must be a callable, given in the program")
    return value


def _sender(value: object) -> object:
    if isinstance(value, str):
        if value not in ("urllib", "requests") and not re.fullmatch(r"[\w.]+:[\w.]+", value):
            raise ValueError("must be urllib, requests, or module:attribute")
    elif not (isinstance(value, type) or hasattr(value, "send")):
        raise ValueError("must be a transport: a class, or an object with `send`")
    return value


READERS: dict[str, Callable[[object], object]] = {
    "spool_path": _path,
    "group": _group,
    "backend": _choice(
        "auto",
        "thread",
        "requests",
        "inline",
        "none",
        "gevent",
        "eventlet",
        "twisted",
        "tornado",
        "asyncio",
    ),
    "fsync": _choice("always", "everysec", "no"),
    "concurrency": _workers,
    "timeout": _timeout,
    "verify_ssl": _flag,
    "ca_certs": _path,
    "proxy": _text,
    "sender": _sender,
    "shutdown_timeout": _wait,
    "send_timeout": _wait,
    "max_bytes": _bytes,
    "max_events": _events,
    "encryption_key": _keys,
    "max_age": _above_0,
    "warn_age": _seconds,
    "overflow": _choice("drop_oldest", "drop_newest"),
    "order": _choice("oldest", "newest"),
    "on_server_error": _choice("retry", "discard"),
    "on_rate_limit": _choice("hold", "discard"),
    "wait": _callable,
    "stop": _callable,
    "on_delivered": _callable,
    "on_dead": _callable,
}

assert {field.name for field in fields(Options)} == set(READERS)
