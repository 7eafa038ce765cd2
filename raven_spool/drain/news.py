"""What is to be logged or called back once no lock is held."""

import logging
from collections import deque
from collections.abc import Callable

log = logging.getLogger("raven.spool")  # raven's own handlers skip raven.*: no feeding itself

_REMEMBERED = 1000


class News:
    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._told: set[str] = set()

    def add(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def log(self, level: int, text: str) -> None:
        self.add(lambda: log.log(level, "%s", text))

    def log_once(self, level: int, text: str) -> None:
        if text not in self._told and len(self._told) < _REMEMBERED:
            self._told.add(text)
            self.log(level, text)

    def tell(self) -> None:
        """Log and call back; what users' code raises is theirs to read."""
        while True:
            try:
                call = self._calls.popleft()
            except IndexError:
                return
            try:
                call()
            except Exception:
                log.exception("a callback failed")
