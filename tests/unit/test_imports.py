"""Holds the modules of raven_spool to one direction of imports, disk and network to one room each.

A room is a module or a package directly under `raven_spool`; the picture: docs/architecture.md.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "raven_spool"

# A room may import rooms of its own floor and of those before it, never of a later one.
FLOORS: list[set[str]] = [
    {"model", "errors"},
    {"protocol", "policy", "config"},
    {"spool"},
    {"drain"},
    {"senders"},
    {"drive"},
    {"runtimes"},
    {"backends"},
    {"flusher"},
    {"transport", "sentry", "cli"},
]
FACADE = "__init__"  # the public names; only the floor that faces the user may look at it
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FLOOR_OF[FACADE] = len(FLOORS) - 1

SENDERS_SEE = {"model", "errors", "senders"}
DISK = {"sqlite3"}
NETWORK = {"socket", "ssl", "http.client", "urllib.request", "requests"} | {
    *("aiohttp", "pycurl", "tornado.curl_httpclient", "tornado.httpclient", "twisted.web"),
}
LOOPS = {"asyncio", "eventlet", "gevent", "tornado", "twisted"}
FRAMEWORKS = {
    "aiohttp",
    "click",
    "eventlet",
    "filelock",
    "gevent",
    "persistqueue",
    "requests",
    "rich",
    "tornado",
    "twisted",
}

MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))


def name_module(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def read_imports(path: Path) -> Iterator[str]:
    """Every dotted name imported anywhere in the file; `from a import b` gives a and a.b."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package[: len(package) - level + 1] if level else ()
                origin = ".".join((*above, *([module] if module else [])))
                yield origin
                yield from (f"{origin}.{alias.name}" for alias in names)


def rooms_seen(path: Path) -> set[str]:
    parts = (name.split(".") for name in read_imports(path))
    inside = [rest for package, *rest in parts if package == PACKAGE]
    named = {rest[0] for rest in inside if rest and rest[0] in FLOOR_OF}
    public = {FACADE for rest in inside if rest and rest[0] not in FLOOR_OF}
    return named | public


def in_any(name: str, libraries: set[str]) -> bool:
    return any(name == library or name.startswith(library + ".") for library in libraries)


def imported_of(path: Path, libraries: set[str]) -> set[str]:
    return {name for name in read_imports(path) if in_any(name, libraries)}


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in FLOOR_OF, f"{room} has no floor yet: give it one in FLOORS"
    later = {seen for seen in rooms_seen(path) if FLOOR_OF[seen] > FLOOR_OF[room]}
    assert not later, f"{name_module(path)} imports {later}, which are built on it"


def test_rooms_of_one_floor_form_no_circle() -> None:
    seen_by: dict[str, set[str]] = {room: set() for room in FLOOR_OF}
    for path in MODULES:
        room = room_of(path)
        seen_by[room] |= rooms_seen(path) - {room, FACADE}
    while leaves := {room for room, seen in seen_by.items() if not seen}:
        seen_by = {room: seen - leaves for room, seen in seen_by.items() if room not in leaves}
    assert not seen_by


def test_senders_see_only_the_values() -> None:
    seen = {name_module(p): rooms_seen(p) - SENDERS_SEE for p in MODULES if room_of(p) == "senders"}
    assert {name: rooms for name, rooms in seen.items() if rooms} == {}


def test_only_the_spool_touches_sqlite() -> None:
    rooms = {room_of(path) for path in MODULES if imported_of(path, DISK)}
    assert rooms == {"spool"}


def test_only_the_senders_touch_the_network() -> None:
    rooms = {room_of(path) for path in MODULES if imported_of(path, NETWORK)}
    assert rooms == {"senders"}


def test_only_senders_and_runtimes_know_a_loop() -> None:
    rooms = {room_of(path) for path in MODULES if imported_of(path, LOOPS)}
    assert rooms == {"runtimes", "senders"}


def test_importing_raven_spool_loads_no_framework() -> None:
    program = f"import sys, {PACKAGE}; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = ran.stdout.split()
    assert PACKAGE in loaded
    assert FRAMEWORKS.intersection(loaded) == set()


def test_sender_brings_the_codec_of_host_names() -> None:
    """Else the first name lookup imports it, and a fork in the middle of that leaves its child
    without one for good ("unknown encoding: idna")."""
    check = "import sys, raven_spool.senders.urllib; sys.exit('encodings.idna' not in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", check], check=False)
    assert ran.returncode == 0
