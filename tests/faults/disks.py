"""Disks that a test may fill: a small tmpfs of its own, made as root and gone with the test."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mounted(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of that size at `path`, until the generator ends."""
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no disk to fill: mounting a tmpfs needs root ({made.stderr.strip()})")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Filler:
    """A foreign file that takes all there is left."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "foreign"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):  # the last one is cut, then there is an error
                pass

    def give_back(self, size_bytes: int) -> None:
        os.truncate(self._path, self._path.stat().st_size - size_bytes)

    def free(self) -> None:
        self._path.unlink()
