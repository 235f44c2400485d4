"""Stopping politely: a signal asks, and the training loop answers at its next step boundary.

SIGTERM (a cluster that wants its machine back) and SIGINT (Ctrl-C) are remembered instead of
obeyed; the loop finishes its step, saves its state and ends with exit code ``STOPPED``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

STOPPED = 75
"""Exit code of a run that a signal stopped and that --resume continues (EX_TEMPFAIL)."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 - it is no error
    """A signal stopped the run, after its state was saved."""


class StopRequest:
    """While it is entered, SIGTERM and SIGINT only set ``made``; both are restored at the end.

    Outside the main thread, where Python allows no signal handlers, nothing is changed. Repeated
    signals ask the same thing again, since launchers pass on what the terminal sent already;
    SIGQUIT (Ctrl-\\) still ends the process at once.
    """

    def __init__(self) -> None:
        self.made = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _frame: object) -> None:
        if not self.made:
            self.made = signal.Signals(number).name
            message = f"{self.made}: saving after this step (Ctrl-\\ stops at once)\n"
            os.write(2, message.encode())  # print is not safe inside a signal handler


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold both signals back; processes that are started meanwhile never hear them.

    For data loading workers: terminals and clusters signal every process of a job, but the trainer
    needs its workers until it has saved.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
