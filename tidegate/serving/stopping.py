"""The signals that stop a server: the first one gracefully, the second one at once. SIGUSR1 and SIGUSR2 mean nothing."""

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

STOP_AT_ONCE = signal.SIGQUIT
MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2)  # whose default would be to end the process


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop gracefully; not that of a closed terminal where it is ignored, as `nohup` has it."""
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return signal.SIGTERM, signal.SIGINT, *hang_up


class StopSignals:
    """Listens for them on the running loop.

    Attributes:
        first: Set as soon as the worker is to stop.
        at_once: Set when it shall wait for nothing any more.
    """

    def __init__(self, *, alone: bool) -> None:
        """Take them over.

        SIGQUIT means at once. So does a second one of the others, but only in a process that is `alone`: a worker of several is
        stopped by SIGTERM, and may be sent it by its parent and by whoever signals the whole group.
        """
        self.first = asyncio.Event()
        self.at_once = asyncio.Event()
        self._alone = alone
        for number in (*(stop_signals() if alone else (signal.SIGTERM,)), STOP_AT_ONCE):
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)

    async def unless_at_once(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work, but drop it as soon as the worker is to stop at once."""
        working = asyncio.ensure_future(work)
        told = asyncio.ensure_future(self.at_once.wait())
        await asyncio.wait((working, told), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working

    def _stop(self, number: signal.Signals) -> None:
        if number == STOP_AT_ONCE or (self._alone and self.first.is_set()):
            self.at_once.set()
        self.first.set()
