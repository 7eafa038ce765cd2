"""A tree grown over the leaves that are found leads SQLite to each row, as it did before."""

import io
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven_spool.spool import btree
from raven_spool.spool.schema import PAGE_BYTES

COLUMNS = 4
NOISE = b"\xa5" * PAGE_BYTES
NAMES = "id, name, data"
Rows = list[tuple[int, str, bytes]]


def make(rows: Rows, removed: set[int] = frozenset()) -> bytes:  # type: ignore[assignment]
    """A file of one table beside others, and pages that are free."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(
            "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, name, data, more)"
        )
        connection.execute("CREATE TABLE others (id INTEGER PRIMARY KEY, a, b)")
        connection.execute("CREATE INDEX names ON events (name)")
        connection.execute("BEGIN")
        for row in rows:
            connection.execute("INSERT INTO events VALUES (?, ?, ?, 1.5)", row)
            connection.execute("INSERT INTO others VALUES (?, ?, ?)", row)
        for key in removed:
            connection.execute("DELETE FROM events WHERE id = ?", (key,))
        connection.execute("COMMIT")
        return connection.serialize()


def root_of(image: bytes) -> int:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(image)
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'events'"
        ).fetchone()
        return int(root)


def opened(file: io.BytesIO) -> closing[sqlite3.Connection]:
    head = bytearray(btree.read_page(file, 1))
    head[28:32] = bytes(4)  # as many pages as the file has
    btree.write_page(file, 1, bytes(head))
    connection = sqlite3.connect(":memory:")
    connection.deserialize(file.getvalue())
    return closing(connection)


def read(file: io.BytesIO) -> Rows:
    """Along the leaves, and each by its id."""
    with opened(file) as connection:
        found = connection.execute(f"SELECT {NAMES} FROM events ORDER BY id").fetchall()
        for row in found:
            assert look_up(connection, row[0]) == [row]
        return found


def look_up(connection: sqlite3.Connection, key: int) -> Rows:
    return connection.execute(f"SELECT {NAMES} FROM events WHERE id = ?", (key,)).fetchall()


def regrow(image: bytes, root: int) -> io.BytesIO:
    file = io.BytesIO(image)
    free = btree.find_free(file)
    assert free is not None
    btree.grow(file, root, btree.find_rows(file, COLUMNS, free))
    return file


def rows_of(count: int, size: int) -> Rows:
    return [(key, f"name {key}", bytes([key % 256]) * size) for key in range(1, count + 1)]


@pytest.mark.parametrize("count", [12, 300, 2_000])
def test_each_row_is_found_again_without_its_root(count: int) -> None:
    rows = rows_of(count, 2_000)  # two of them in a leaf: 2,000 have interior pages on two floors
    image = make(rows)
    root = root_of(image)
    broken = io.BytesIO(image)
    assert btree.is_whole(broken, root)
    btree.write_page(broken, root, NOISE)
    assert not btree.is_whole(broken, root)

    assert read(regrow(broken.getvalue(), root)) == rows


def test_tree_of_more_than_two_floors() -> None:
    rows = rows_of(1_100, 2_000)
    file = io.BytesIO(make(rows))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(btree, "_MOST_CHILDREN", 3)
        file = regrow(file.getvalue(), root_of(file.getvalue()))
    assert read(file) == rows
    assert btree.is_whole(file, root_of(file.getvalue()))


@pytest.mark.parametrize("children", [*range(2, 60), *range(255 * 300, 255 * 300 + 300, 7)])
def test_no_page_gets_one_child_or_too_many(children: int) -> None:
    groups = list(btree._share_out([(page, page) for page in range(children)]))
    assert [one for group in groups for one in group] == [(page, page) for page in range(children)]
    assert {len(group) for group in groups} <= {*range(min(2, children), 257)}


def test_what_was_deleted_stays_away_though_its_pages_still_show_it() -> None:
    rows = rows_of(400, 900)
    image = make(rows, removed={*range(1, 301)})
    root = root_of(image)
    shown = {btree.id_in(place) for place in btree.find_rows(io.BytesIO(image), COLUMNS, set())}
    assert len(shown) > 200

    assert read(regrow(image, root)) == rows[300:]


def test_row_that_two_leaves_show_is_found_all_the_same() -> None:
    """As where the list of free pages is gone, and a leaf was merged with another."""
    rows = rows_of(100, 900)
    image = make(rows)
    file = io.BytesIO(image)
    for number in {btree.page_in(place) for place in btree.find_rows(file, COLUMNS, set())}:
        if number % 3:
            btree._append(file, btree.read_page(file, number))
    assert len(list(btree.find_rows(file, COLUMNS, set()))) > 150

    grown = regrow(file.getvalue(), root_of(image))
    with opened(grown) as connection:
        assert [look_up(connection, row[0]) for row in rows] == [[row] for row in rows]


@pytest.mark.parametrize("count", [0, 1])
def test_leaf_that_is_its_own_root(count: int) -> None:
    rows = rows_of(count, 10)
    image = make(rows)
    assert read(regrow(image, root_of(image))) == rows


some_rows = st.dictionaries(
    st.integers(1, 1 << 55) | st.integers(1, 300),
    st.tuples(st.text(max_size=8), st.integers(0, 9_000)),
    max_size=120,
)


@settings(max_examples=60)
@given(wanted=some_rows, chance=st.randoms(use_true_random=False))
def test_ids_and_sizes_of_all_kinds(wanted: dict, chance) -> None:  # type: ignore[no-untyped-def]
    rows = [(key, name, bytes(size)) for key, (name, size) in sorted(wanted.items())]
    removed = {key for key in wanted if chance.random() < 0.4}
    image = make(rows, removed)
    assert read(regrow(image, root_of(image))) == [row for row in rows if row[0] not in removed]


@settings(max_examples=100)
@given(noise=st.binary(max_size=3 * PAGE_BYTES), at=st.integers(0, 40 * PAGE_BYTES))
def test_noise_raises_nothing(noise: bytes, at: int) -> None:
    image = bytearray(make(rows_of(60, 1_500), removed={*range(1, 30)}))
    root = root_of(bytes(image))
    for mark in (b"", b"\x0d", b"\x05"):
        where = at // PAGE_BYTES * PAGE_BYTES if mark else at
        image[where : where + len(noise)] = mark + noise[len(mark) :]
    file = io.BytesIO(bytes(image))
    btree.is_whole(file, root)
    places = list(btree.find_rows(file, COLUMNS, btree.find_free(file) or set()))
    btree.grow(file, root, places)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda head: head[:36] + b"\0\0\0\x07" + head[40:],
        lambda head: head[:32] + b"\0\xff\0\0" + head[36:],
        lambda head: head[:32] + b"\0\0\0\1" + head[36:],
    ],
    ids=["another count", "behind the end", "itself"],
)
def test_broken_list_of_free_pages_is_seen(spoil) -> None:  # type: ignore[no-untyped-def]
    file = io.BytesIO(make(rows_of(400, 900), removed={*range(1, 301)}))
    assert btree.find_free(file)
    btree.write_page(file, 1, spoil(btree.read_page(file, 1)))
    assert btree.find_free(file) is None
