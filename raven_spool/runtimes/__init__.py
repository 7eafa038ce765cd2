"""Runtimes: what runs the workers. One short file for each concurrency model."""

from typing import Protocol


class Runtime(Protocol):
    def wake(self, own: int = 0) -> None:
        """There is something to send: see that a worker runs. Cheap; called at every send.

        `own` is the id of what was committed just now, 0 if nothing was.
        """

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the workers to stop, as the drain was told to. Returns whether all did."""

    def pause(self, seconds: float) -> None:
        """Sleep, in a way that lets the workers go on."""

    @property
    def can_be_waited_for(self) -> bool:
        """Whether the workers go on while the caller blocks. Not those of a loop that is not
        running, or whose own thread calls."""

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is one of the workers, or code that one of them called."""
