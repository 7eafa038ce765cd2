"""No loop, nothing patched: commands are obeyed by the main thread as they come."""

from collections.abc import Callable, Iterator
from typing import Any

Command = dict[str, Any]


def run(commands: Iterator[Command], obey: Callable[[Command], None]) -> None:
    for command in commands:
        obey(command)
