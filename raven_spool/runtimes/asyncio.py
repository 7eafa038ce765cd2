"""Workers as tasks of the running asyncio loop; steps in an executor of our own, for the loop's
default one may be busy with the application's work."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from raven_spool.drain import Drain
from raven_spool.drive import Worker
from raven_spool.model import Wait
from raven_spool.runtimes.loop import AwaitingRuntime


class AsyncioRuntime(AwaitingRuntime):
    def __init__(self, drain: Drain, make_sender: Callable[[str], Any]) -> None:
        super().__init__(drain, make_sender)
        self._executor = ThreadPoolExecutor(drain.workers, "raven-spool")

    def find_loop(self) -> Any:
        with suppress(RuntimeError):
            return asyncio.get_running_loop()
        return None

    def is_running(self, loop: Any) -> bool:
        return bool(loop.is_running())

    def is_inside(self, loop: Any) -> bool:
        return self.find_loop() is loop

    def call_soon(self, loop: Any, function: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(function)

    def spawn(self, worker: Worker) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._run(worker), name="raven-spool")
        # What a program leaves behind that closes its loop without a word stays spooled: no news
        # for its error log. asyncio does the same for `gather`.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def find_task(self) -> asyncio.Task[Any] | None:
        with suppress(RuntimeError):
            return asyncio.current_task()
        return None

    async def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._step, function, *args)

    async def wait(self, decision: Wait) -> None:
        loop = asyncio.get_running_loop()
        # Not asyncio.wait_for: until Python 3.12 a cancellation could get lost in it.
        over = loop.create_future()

        def end() -> None:
            if not over.done():
                over.set_result(None)

        with self._hear(decision, end) as (bell, seconds):
            timer = loop.call_later(seconds, end)
            if bell is not None:
                loop.add_reader(bell, end)
            try:
                await over
            finally:
                timer.cancel()
                if bell is not None:
                    loop.remove_reader(bell)


def in_thread(function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    """Call it in a thread of its own: enough of them in the loop's executor, each waiting for us,
    would keep the name lookups out that we wait for."""
    executor = ThreadPoolExecutor(1, "raven-spool")
    try:
        return asyncio.get_running_loop().run_in_executor(executor, function, *args)
    finally:
        executor.shutdown(wait=False)
