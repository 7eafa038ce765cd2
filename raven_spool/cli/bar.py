"""A progress bar for people: on stderr, where that is a terminal; gone at the end."""

import contextlib
import sys
from collections.abc import Callable, Iterator

Move = Callable[[int, int], None]  # to so many of so many


@contextlib.contextmanager
def progress(doing: str, *, shown: bool = True) -> Iterator[Move | None]:
    """None where nobody would see it."""
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (doing, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
