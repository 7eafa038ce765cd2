"""A progress bar for people: on stderr, where that is a terminal; gone at the end."""

import contextlib
import sys
from collections.abc import Callable, Iterator

Move = Callable[[int], None]  # to so many of the total


@contextlib.contextmanager
def progress(doing: str, total: int) -> Iterator[Move | None]:
    """None where nobody would see it."""
    if not (total and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (doing, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
