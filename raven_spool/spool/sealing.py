"""Bodies at rest, sealed with AES-256-GCM where the user gave a key.

A sealed event carries a mark as its first header, under an empty name, which no client's header
can have (protocol/auth.py): `aes-gcm:<id of the key>:<nonce>`. The event's id, endpoint and other
headers are bound to the body: none can be exchanged for another's. The nonce is random, which is
safe for 2**32 events of a key (NIST SP 800-38D, 8.3).
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raven_spool.errors import BackendUnavailable, ConfigurationError
from raven_spool.model import Event
from raven_spool.spool import fork

KEY_BYTES = 32
_NONCE_BYTES = 12
_MARK = re.compile("aes-gcm:([0-9a-f]{8}):([0-9a-f]{24})")


class Tampered(Exception):
    """A body that does not open with its own key: it, or what is bound to it, was changed."""


def key_id(event: Event) -> str | None:
    """The id of the key that a sealed event needs; None for one in the clear."""
    mark = _mark(event)
    return None if mark is None else mark[1]


class Seal:
    """The keys of one process: the first seals, all open. Without any nothing is sealed."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = tuple(keys)
        self._ciphers: dict[str, Any] = {}

    def close(self, event: Event) -> Event:
        """The event as it may lie on the disk. One that is sealed already stays as it is.

        Raises:
            SpoolError: the key or the library can't be used; in the clear nothing is stored.
        """
        if not self._keys or _mark(event) is not None:
            return event
        nonce = os.urandom(_NONCE_BYTES)
        name, cipher = next(iter(self._load().items()))
        body = cipher.encrypt(nonce, event.body, _bound(event))
        mark = ("", f"aes-gcm:{name}:{nonce.hex()}")
        return replace(event, body=body, headers=(mark, *event.headers))

    def open(self, event: Event) -> Event:
        """The event as it was captured; as it is where this process has not its key.

        Raises:
            Tampered: it is not what was sealed.
        """
        mark = _mark(event)
        if mark is None or not self._keys:
            return event
        try:
            cipher = self._load().get(mark[1])
        except (BackendUnavailable, ConfigurationError):
            return event  # said where it was to be sealed
        if cipher is None:
            return event
        from cryptography.exceptions import InvalidTag

        plain = replace(event, headers=event.headers[1:])
        try:
            body = cipher.decrypt(bytes.fromhex(mark[2]), plain.body, _bound(plain))
        except (InvalidTag, ValueError):
            raise Tampered from None
        return replace(plain, body=body)

    def _load(self) -> dict[str, Any]:
        """Ciphers by the ids of their keys, in the order of these."""
        if not self._ciphers:
            make = fork.hold_off(_import_cipher)
            if any(len(key) != KEY_BYTES for key in self._keys):
                raise ConfigurationError("encryption_key can't be used: no event goes to the disk")
            self._ciphers = {_name(key): make(key) for key in self._keys}
        return self._ciphers

    def __repr__(self) -> str:
        return f"<Seal of {len(self._keys)} keys>"


def _import_cipher() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise BackendUnavailable(
            "encryption_key needs cryptography: pip install 'raven-spool[encryption]'"
        ) from error
    return AESGCM


def _name(key: bytes) -> str:
    """What tells keys apart and nothing of them."""
    return hashlib.sha256(b"raven_spool key " + key).hexdigest()[:8]


def _mark(event: Event) -> re.Match[str] | None:
    name, value = event.headers[0] if event.headers else ("none", "")
    return None if name else _MARK.fullmatch(value)


def _bound(event: Event) -> bytes:
    return json.dumps([event.event_id, event.endpoint, event.headers]).encode()
