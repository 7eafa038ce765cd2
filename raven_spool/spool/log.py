"""What a damaged log still has behind the damage.

SQLite reads its log as far as the frames' checksums fit, each of which goes on from the one before.
What stands behind a damaged frame it takes for the end, and the next commits are written over it.
But whether a frame is whole can be told from what the one before states: here such frames are
found, and put beside the file before it is opened. Their events come back as those of a broken file
do (salvage.py).

So it is after some power cuts too: what was not synced may reach the disk in any order.

The layout: sqlite.org/fileformat2.html, 4.1 (header and frames) and 4.2 (checksums).
"""

import os
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from raven_spool.spool import btree
from raven_spool.spool.files import replace, size_of, sync_directory
from raven_spool.spool.names import LOG, REST
from raven_spool.spool.rows import StoredRow
from raven_spool.spool.schema import PAGE_BYTES

_HEAD_BYTES = 32
_FRAME_HEAD_BYTES = 24
_FRAME_BYTES = _FRAME_HEAD_BYTES + PAGE_BYTES
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}  # in which order checksums take the bytes
_NATIVE = "<" if sys.byteorder == "little" else ">"
_HEAD_SUMMED_BYTES = 24
_FRAME_HEAD_SUMMED_BYTES = 8
_MOST_BYTES = 32 << 20  # checkpoints are due at 4 MB; the gate must not be held for seconds
_WORD = (1 << 32) - 1

Sums = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rest:
    """What stands behind a damage in a log."""

    pages: dict[int, bytes] = field(default_factory=dict)  # by number, as they were written last
    commits: dict[int, int] = field(default_factory=dict)  # and by which

    def find_rows(self) -> Iterator[btree.Place]:
        """The events that are in these pages, but for what was delivered: a leaf that is given back
        still shows them."""
        gone = btree.find_freed(self.pages, self.commits)
        for number, page in self.pages.items():
            if number not in gone:
                yield from btree.rows_in(number, page, len(StoredRow._fields))

    def highest_id(self) -> int:
        """Of its events; 0: there are none."""
        return max(map(btree.id_in, self.find_rows()), default=0)


def last_shown_id(database: str) -> int:
    """The highest id of an event in the log, committed or not; 0: none. No checksum is looked at:
    that takes long, in Python. Where SQLite has given no such id, it has not read all of the log.
    """
    if not _may_be_read(database + LOG):
        return 0
    with open(database + LOG, "rb") as file:
        file.seek(_HEAD_BYTES)
        pages = (frame[_FRAME_HEAD_BYTES:] for frame in _frames(file))
        return max((btree.last_id_in(page, len(StoredRow._fields)) for page in pages), default=0)


def keep_rest(database: str, after: int) -> None:
    """Put what stands behind a damage in the log beside the file, if there are events in it. To be
    called before SQLite opens it, by the only one who is about to.

    Args:
        after: the last id of what SQLite reads.

    Crash:
        Before it is there: the log still has it.
    """
    frames = _find_after(database, after)
    if _read(frames).highest_id():
        replace(database + REST, b"".join(frames))


def read_kept(database: str) -> Rest:
    """What was put there."""
    if not 0 < size_of(database + REST) <= _MOST_BYTES:
        return Rest()
    with open(database + REST, "rb") as file:
        return _read(_frames(file))


def forget_rest(database: str) -> None:
    os.unlink(database + REST)


def move_rest(database: str, target: str) -> None:
    """To another file, whose rest it is from now on."""
    os.rename(database + REST, target + REST)
    sync_directory(os.path.dirname(target))
    sync_directory(os.path.dirname(database))


def read_rest(database: str, after: int) -> Rest:
    """The same, or what still stands in its log, where nobody came to put it there."""
    kept = read_kept(database)
    return kept if kept.pages else _read(_find_after(database, after))


def _find_after(database: str, after: int) -> list[bytes]:
    return find_rest(database + LOG) if last_shown_id(database) > after else []


def find_rest(log: str) -> list[bytes]:
    """The whole frames that SQLite passes over: those of the commit in which the first damaged one
    is, and those behind it, up to the last commit."""
    if not _may_be_read(log):
        return []
    with open(log, "rb") as file:
        return _cut(_find_whole(file))


def _find_whole(file: BinaryIO) -> Iterator[bytes]:
    head = file.read(_HEAD_BYTES)
    magic = int.from_bytes(head[:4], "big")
    order = _MAGIC.get(magic, _NATIVE)
    sums = _sums(head, _HEAD_BYTES)
    is_read = magic in _MAGIC and _add(order, (0, 0), head[:_HEAD_SUMMED_BYTES]) == sums
    salts = head[16:24] if is_read else _salts_of_most(file)
    begun: list[bytes] = []  # of a commit that is damaged further on
    for frame in _frames(file):
        is_whole = frame[8:16] == salts and _is_whole(frame, order, sums)
        is_read = is_read and is_whole
        if is_read:
            begun = [] if _is_commit(frame) else [*begun, frame]
        elif is_whole:
            yield from begun
            yield frame
            begun = []
        sums = _sums(frame, _FRAME_HEAD_BYTES)


def _may_be_read(log: str) -> bool:
    return _HEAD_BYTES < size_of(log) <= _MOST_BYTES


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """From where it stands; a piece of one at its end is none."""
    while len(frame := file.read(_FRAME_BYTES)) == _FRAME_BYTES:
        yield frame


def _salts_of_most(file: BinaryIO) -> bytes:
    """Of the first frames: all of this round of the log have the same, older ones others."""
    first = [file.read(_FRAME_BYTES)[8:16] for _ in range(3)]
    file.seek(_HEAD_BYTES)
    return max(first, key=first.count)


def _is_whole(frame: bytes, order: str, before: Sums) -> bool:
    summed = frame[:_FRAME_HEAD_SUMMED_BYTES] + frame[_FRAME_HEAD_BYTES:]
    return _add(order, before, summed) == _sums(frame, _FRAME_HEAD_BYTES)


def _sums(head: bytes, size: int) -> Sums:
    first, second = struct.unpack_from(">II", head, size - 8)
    return first, second


def _add(order: str, sums: Sums, content: bytes) -> Sums:
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(content) // 4}I", content))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & _WORD
        second = (second + other + first) & _WORD
    return first, second


def _cut(frames: Iterable[bytes]) -> list[bytes]:
    """What came after the last commit is half of one."""
    found, committed = [], 0
    for frame in frames:
        found.append(frame)
        if _is_commit(frame):
            committed = len(found)
    return found[:committed]


def _is_commit(frame: bytes) -> bool:
    return frame[4:8] != bytes(4)


def _read(frames: Iterable[bytes]) -> Rest:
    rest, commit = Rest(), 0
    for frame in frames:
        number = int.from_bytes(frame[:4], "big")
        if number:  # else it is not of our making
            rest.pages[number] = frame[_FRAME_HEAD_BYTES:]
            rest.commits[number] = commit
        commit += _is_commit(frame)
    return rest
