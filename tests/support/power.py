"""A file system that forgets what was not synced, as much of it as is allowed to.

It is fed with a record (recorder.py) and asked at any point what a power cut there would leave.
What was written to a file before its last sync is there. Of what was written later any part is,
in any order: each write whole, torn at sectors of 512 bytes, or not at all. A name that was made,
moved or removed is so for certain only after its directory was synced. That is what POSIX allows;
no file system in use is as bad.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.recorder import Did

SECTOR_BYTES = 512


@dataclass(slots=True)
class File:
    """`content` is on the disk; `pending` may be, with each change's place in the record."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, Did]] = field(default_factory=list)

    def sync(self, since: int) -> None:
        for place, did in self.pending:
            if place < since:
                _apply(self.content, did)
        self.pending = [one for one in self.pending if one[0] >= since]

    def survive(self, chance: random.Random, luck: float) -> bytearray:
        content = bytearray(self.content)
        for _, did in self.pending:
            fate = chance.random()
            if fate < luck:
                _apply(content, did)
            elif did.kind == "write" and fate < luck + (1 - luck) / 3:
                _tear(content, did, chance)
        return content


Names = dict[str, File | None]  # None is a directory


class Disk:
    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve())
        self._now: Names = {}  # what a running process sees
        self._kept: Names = {}  # what is on the disk for certain
        self._pending: list[tuple[int, str, str, File | None]] = []
        self._place = 0

    def follow(self, did: Did) -> None:
        """The next thing of the record was done."""
        match did.kind:
            case "open" if did.path not in self._now:
                self._name(did.path, File())
            case "mkdir":
                self._name(did.path, None)
            case "rename":
                moved = self._now.pop(did.path)
                self._pending.append((self._place, did.path, did.to, moved))
                self._now[did.to] = moved
            case "unlink":
                gone = self._now.pop(did.path, None)
                self._pending.append((self._place, did.path, "", gone))
            case "write" | "truncate":
                self._file(did.path).pending.append((self._place, did))
            case "sync":
                self._file(did.path).sync(did.since)
            case "failed":
                self._file(did.path).pending = []  # in memory, and taken for written
            case "names":
                self._sync_names(did.path, did.since)
        self._place += 1

    def _name(self, path: str, what: File | None) -> None:
        self._now[path] = what
        self._pending.append((self._place, "", path, what))

    def _file(self, path: str) -> File:
        found = self._now[path]
        assert found is not None, path
        return found

    def _sync_names(self, directory: str, since: int) -> None:
        later = []
        for change in self._pending:
            place, old, new, what = change
            if os.path.dirname(new or old) == directory and place < since:
                _rename(self._kept, old, new, what)
            else:
                later.append(change)
        self._pending = later

    def survive(self, target: Path, chance: random.Random) -> None:
        """Make `target` what the root is after a power cut now."""
        luck = chance.choice((0.0, 0.0, 0.5, 0.9))  # nothing more than must be, or more
        names = dict(self._kept)
        for _, old, new, what in self._pending:
            if chance.random() < luck:
                _rename(names, old, new, what)
        target.mkdir()
        for path in sorted(names):  # a directory before what is in it
            place, what = target / os.path.relpath(path, self._root), names[path]
            if not place.parent.is_dir():
                continue  # its directory is gone, and it with it
            if what is None:
                place.mkdir(mode=0o700)
            else:
                place.write_bytes(what.survive(chance, luck))


def _rename(names: Names, old: str, new: str, what: File | None) -> None:
    names.pop(old, None)
    if new:
        names[new] = what


def _apply(content: bytearray, did: Did) -> None:
    if did.kind == "truncate":
        del content[did.offset :]
        return
    _put(content, did.offset, did.content)


def _put(content: bytearray, offset: int, piece: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))  # a hole
    content[offset : offset + len(piece)] = piece


def _tear(content: bytearray, did: Did, chance: random.Random) -> None:
    """Some of its sectors."""
    at, end = did.offset, did.offset + len(did.content)
    while at < end:
        until = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if chance.random() < 0.5:
            _put(content, at, did.content[at - did.offset : until - did.offset])
        at = until
