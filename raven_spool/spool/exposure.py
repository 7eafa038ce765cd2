"""What of a spool directory other users can get at."""

import os
import stat
from collections.abc import Iterator

from raven_spool.spool.files import is_shared


def find_exposed(path: str) -> Iterator[tuple[str, str]]:
    """Paths, and what is wrong with each: the directory first, then what is in it."""
    top = os.stat(path)
    yield from _judge(path, top, top)
    yield from _judge_inside(path, top)


def close_off(path: str) -> None:
    """Take away from each what others have of it. What belongs to somebody else stays as it is."""
    top = os.stat(path)
    for name, _ in find_exposed(path):
        found = os.lstat(name)
        if not stat.S_ISLNK(found.st_mode) and found.st_uid == os.geteuid():
            # By its name: to open and close the database would drop this process's locks on it.
            os.chmod(name, stat.S_IMODE(found.st_mode) & ~_forbidden(top))


def _judge_inside(path: str, top: os.stat_result) -> Iterator[tuple[str, str]]:
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                found = entry.stat(follow_symlinks=False)
                yield from _judge(entry.path, found, top)
                if stat.S_ISDIR(found.st_mode):
                    yield from _judge_inside(entry.path, top)
            except FileNotFoundError:
                pass  # an application goes on meanwhile


def _judge(name: str, found: os.stat_result, top: os.stat_result) -> Iterator[tuple[str, str]]:
    if stat.S_ISLNK(found.st_mode):
        yield name, "is a link, which is never followed: remove it"
        return
    if not is_shared(top) and found.st_uid != top.st_uid:
        yield name, f"belongs to user {found.st_uid}, not to {top.st_uid}: chown it"
    mode = stat.S_IMODE(found.st_mode)
    if mode & _forbidden(top):
        yield name, f"is open to others, mode {mode:04o}: {mode & ~_forbidden(top):04o} is enough"


def _forbidden(top: os.stat_result) -> int:
    return 0o007 if is_shared(top) else 0o077
