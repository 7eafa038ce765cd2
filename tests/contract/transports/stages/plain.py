"""No loop, nothing patched: commands are obeyed by the main thread as they come."""

from collections.abc import Iterator
from typing import Any

Commands = Iterator[dict[str, Any]]


def run(commands: Commands, program: Any) -> None:
    for command in commands:
        program.obey(command)
