"""Virtual time that also moves by single callbacks: between any two of them something may happen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any

from tests.virtual import VirtualLoop


class SteppedLoop(VirtualLoop):
    """A virtual loop that stands still unless it is told to move."""

    _ready: Any
    _scheduled: Any

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """The loop as it is seen from inside, while nothing runs."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def step(self) -> bool:
        """Run the one callback that is next, as `_run_once` would; whether there was one. No time passes."""
        while self._ready:
            handle = self._ready.popleft()
            if not handle.cancelled():
                with self.asked():
                    handle._run()
                return True
        return False

    def pass_time(self, seconds: float) -> None:
        """Let that much time pass, with everything that falls into it."""
        self.run_until_complete(asyncio.sleep(seconds))

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that begins with the next step."""
        return self.create_task(work)

    def end(self) -> None:
        """Whatever became of a run, nothing of it is left running."""
        for _ in range(10):
            for task in asyncio.all_tasks(self):
                task.cancel()
            while self.step():
                pass
        self.close()
