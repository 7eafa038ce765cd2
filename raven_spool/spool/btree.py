"""The tree of one table in a flat file, grown anew over its leaves.

SQLite finds a row by a path of pages from its table's root. Where one of them is overwritten, all
rows beneath are out of reach, though their own pages, the leaves, are whole. Here leaves are known
by their looks, and get new pages above them, behind the end of the file.

Flat: no log beside it. The layout, and what the numbers mean: sqlite.org/fileformat2.html, 1.3
(the first page), 1.5 (the freelist), 1.6 (pages of a tree), 2.1 (records).
"""

import itertools
import math
import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from raven_spool.spool.schema import PAGE_BYTES

_INTERIOR, _LEAF = 5, 13
_EMPTY_LEAF = struct.pack(">BHHHB", _LEAF, 0, 0, PAGE_BYTES, 0).ljust(PAGE_BYTES, b"\0")
_NO_ROW_ID = 0  # stands in a record for the column that is the row's id
_NO_LIST = bytes(40)
_MOST_LISTED = PAGE_BYTES // 4 - 2
_MOST_CHILDREN = 256  # of 15 bytes each, and the page's header
_MOST_ID = (1 << 56) - 1  # a longer varint is made otherwise; no spool gives so many
_PAGE = (1 << 32) - 1
_LOCKS = (1 << 30) // PAGE_BYTES + 1  # SQLite's locks are on it: never used

# Of a row: its id, and in the lower 32 bits its page. In one number, for there may be millions.
Place = int


def id_in(place: Place) -> int:
    return place >> 32


def page_in(place: Place) -> int:
    return place & _PAGE


def read_page(file: BinaryIO, number: int) -> bytes:
    """Zeros where the file ends before."""
    file.seek((number - 1) * PAGE_BYTES)
    return file.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0")


def write_page(file: BinaryIO, number: int, page: bytes) -> None:
    file.seek((number - 1) * PAGE_BYTES)
    file.write(page)


def count_pages(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END) // PAGE_BYTES


def find_free(file: BinaryIO) -> set[int] | None:
    """The pages that are nobody's any more, which still show what was deleted; None where the
    list of them is broken."""
    trunk, count = struct.unpack_from(">II", read_page(file, 1), 32)
    last = count_pages(file)
    free: set[int] = set()
    while trunk:
        page = read_page(file, trunk)
        following, listed = struct.unpack_from(">II", page)
        if trunk in free or not 1 < trunk <= last or listed > _MOST_LISTED:
            return None
        free |= {trunk, *struct.unpack_from(f">{listed}I", page, 8)}
        trunk = following
    return free if len(free) == count else None


def find_freed(pages: dict[int, bytes], commits: dict[int, int]) -> set[int]:
    """Which of these, some of a file's, belong to nobody any more: the list of free pages, as far
    as it is among them, names them, and was not written by an earlier commit than they."""
    freed: set[int] = set()
    seen: set[int] = set()
    (trunk,) = struct.unpack_from(">I", pages.get(1, _NO_LIST), 32)
    while trunk in pages and trunk not in seen:
        seen.add(trunk)
        following, listed = struct.unpack_from(">II", pages[trunk])
        numbers = struct.unpack_from(f">{min(listed, _MOST_LISTED)}I", pages[trunk], 8)
        freed |= {one for one in numbers if one in pages and commits[one] <= commits[trunk]}
        trunk = following
    return freed


def is_whole(file: BinaryIO, root: int) -> bool:
    """Whether each page that the tree leads to is one of a table's, and is met once."""
    last = count_pages(file)
    seen: set[int] = set()
    ahead = [root]
    while ahead:
        number = ahead.pop()
        if number in seen or not 1 < number <= last:
            return False
        seen.add(number)
        page = read_page(file, number)
        if page[0] == _INTERIOR:
            ahead += _children(page)
        elif page[0] != _LEAF:
            return False
    return True


def _children(page: bytes) -> Iterator[int]:
    count, last = struct.unpack_from(">H3xI", page, 3)
    for at in _cells(page, count, 12):
        yield int.from_bytes(page[at : at + 4], "big")
    yield last


def find_rows(file: BinaryIO, columns: int, free: set[int]) -> Iterator[Place]:
    """Where each row of so many columns, one of them its id, is: what is in the leaves that look
    like its table's."""
    for number in range(2, count_pages(file) + 1):
        if number not in free:
            yield from rows_in(number, read_page(file, number), columns)


def rows_in(number: int, page: bytes, columns: int) -> Iterator[Place]:
    """Those of one page, if it looks so."""
    if page[0] == _LEAF:
        yield from (key << 32 | number for key in _ids(page, columns))


def last_id_in(page: bytes, columns: int) -> int:
    """Of its rows; 0: there is none, or it does not look so."""
    (count,) = struct.unpack_from(">H", page, 3)
    places = _cells(page, count, 8) if page[0] == _LEAF else ()
    return _id(page, places[-1], columns) if places else 0


def _ids(page: bytes, columns: int) -> Iterator[int]:
    (count,) = struct.unpack_from(">H", page, 3)
    for at in _cells(page, count, 8):
        if key := _id(page, at, columns):
            yield key


def _id(page: bytes, at: int, columns: int) -> int:
    """Of the row that begins there; 0: none does."""
    try:
        _, at = _varint(page, at)  # the record's size
        key, at = _varint(page, at)
        size, types = _varint(page, at)
    except IndexError:
        return 0
    head = page[types : at + size]
    # Each column's type is a varint, and those end with a byte below 128.
    is_row = head[:1] == bytes([_NO_ROW_ID]) and sum(byte < 128 for byte in head) == columns
    return key if is_row and 0 < key <= _MOST_ID else 0


def grow(file: BinaryIO, root: int, places: Iterable[Place]) -> None:
    """Make `root` the root of a tree that leads to these rows.

    A row that is in two places, one of them left behind by a change, is found in one of them.
    """
    by_page = itertools.groupby(sorted(places), key=page_in)
    moved = _append(file, read_page(file, root))  # where it is a leaf, it will be one no more
    children = [(moved if page == root else page, id_in(max(run))) for page, run in by_page]
    while len(children) > _MOST_CHILDREN:
        groups = _share_out(children)
        children = [(_append(file, _interior(group)), group[-1][1]) for group in groups]
    if len(children) > 1:
        top = _interior(children)
    else:  # a tree of one leaf is that leaf
        top = read_page(file, children[0][0]) if children else _EMPTY_LEAF
    write_page(file, root, top)


def _share_out(children: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Evenly: a page with one child is not allowed."""
    count, pages = len(children), math.ceil(len(children) / _MOST_CHILDREN)
    for start, end in itertools.pairwise(count * nth // pages for nth in range(pages + 1)):
        yield children[start:end]


def _append(file: BinaryIO, page: bytes) -> int:
    number = count_pages(file) + 1
    number += number == _LOCKS
    write_page(file, number, page)
    return number


def _interior(children: list[tuple[int, int]]) -> bytes:
    """A page that leads to these: each with the highest id in it, but for the last."""
    *others, (last, _) = children
    cells = [struct.pack(">I", page) + _as_varint(key) for page, key in others]
    ends = itertools.accumulate(map(len, cells))
    pointers = [PAGE_BYTES - end for end in ends]  # from the page's end, towards the pointers
    head = struct.pack(">BHHHBI", _INTERIOR, 0, len(cells), pointers[-1], 0, last)
    head += struct.pack(f">{len(pointers)}H", *pointers)
    body = b"".join(reversed(cells))
    return head + bytes(PAGE_BYTES - len(head) - len(body)) + body


def _cells(page: bytes, count: int, head_bytes: int) -> tuple[int, ...]:
    """Where they begin; in a broken page that may be anywhere, and more than there can be."""
    count = min(count, (PAGE_BYTES - head_bytes) // 2)
    return struct.unpack_from(f">{count}H", page, head_bytes)


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends: seven bits a byte, the highest first, and eight in the ninth."""
    value = 0
    for end in range(at + 1, at + 9):
        byte = page[end - 1]
        value = value << 7 | byte & 127
        if byte < 128:
            return value, end
    return value << 8 | page[at + 8], at + 9


def _as_varint(value: int) -> bytes:
    found = bytes([value & 127])
    while value := value >> 7:
        found = bytes([value & 127 | 128]) + found
    return found
