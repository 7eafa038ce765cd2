"""Calls that no signal may cut short, made by a thread of their own.

Python raises what a signal handler raises, a task queue's time limit, out of whatever the main
thread is at. Our own code expects that; filelock (4.3.1) does not: thrown out of its bookkeeping of
forks it leaves that locked, and whoever takes a lock later in this process waits for ever. Two of
four programs hung so, after 100 and 700 exceptions.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from raven_spool.spool import native

T = TypeVar("T")


def call_apart(call: Callable[[], T], undo: Callable[[T], None] = lambda _: None) -> T:
    """What `call` returns or raises. Thrown out of here before that, it is still made, to its end,
    and `undo` is called with what it has returned."""
    if not native.is_main_thread() or native.threads_are_green():
        return call()  # no signal comes here, or green threads don't go with native ones
    errand = _Errand(call, undo)
    try:
        native.start_thread(errand.run)
    except RuntimeError:  # the interpreter is ending, or uWSGI lets us have none
        return call()
    return errand.wait()


class _Errand(Generic[T]):
    def __init__(self, call: Callable[[], T], undo: Callable[[T], None]) -> None:
        self._call = call
        self._undo = undo
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._is_abandoned = False
        self._done = native.make_lock()
        self._done.acquire()

    def run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 it is raised where it was waited for
            self._errors.append(error)
        if self._is_abandoned:
            self._give_back()
        self._done.release()

    def wait(self) -> T:
        try:
            self._done.acquire()
        except BaseException:
            self._is_abandoned = True  # before the look at what there is: one of the two sees it
            if self._results:
                native.start_thread(self._give_back)
            raise
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def _give_back(self) -> None:
        for result in self._results:
            self._undo(result)
