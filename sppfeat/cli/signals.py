"""Signals that ask a run to stop: Ctrl-C, ``kill``, and a closing terminal."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from sppfeat.cli.output import say

__all__ = ["Stop", "raise_if_dropped", "stop_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """The state of a request to stop, made by a signal.

    Before the first batch there is nothing to finish, so a signal stops the run at once.
    """

    def __init__(self) -> None:
        self._is_wanted = False
        self._has_batches = False

    def begin_batches(self) -> None:
        """From now on, lets the first signal wait for the end of the current batch."""
        self._has_batches = True

    def is_wanted(self) -> bool:
        """True if a signal has asked to stop after this batch."""
        return self._is_wanted

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Signal handler: notes the request, or raises KeyboardInterrupt if the run must stop at once."""
        if self._is_wanted or not self._has_batches:
            self._is_wanted = True
            raise KeyboardInterrupt
        self._is_wanted = True
        say("\nStopping after this batch; once more stops at once.")

    def raise_if_dropped(self) -> None:
        """Raises KeyboardInterrupt again if a signal raised it and the exception was dropped."""
        if self._is_wanted and not self._has_batches:
            raise KeyboardInterrupt


_innermost: Stop | None = None  # made by the innermost stop_on_signals


def raise_if_dropped() -> None:
    """Raises the KeyboardInterrupt of a signal again if the exception was dropped.

    Python drops exceptions while it deletes an object, h5py while it converts texts.
    """
    if _innermost is not None and threading.current_thread() is threading.main_thread():
        _innermost.raise_if_dropped()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handles signals: the first asks to stop after the current batch, the second raises KeyboardInterrupt.

    Ignored signals stay ignored, such as SIGHUP under ``nohup`` or SIGINT in the background of a script. Outside the
    main thread, signals cannot be handled and nothing happens.
    """
    global _innermost
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heeded = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    outer, hook = _innermost, sys.unraisablehook
    try:
        _innermost, sys.unraisablehook = stop, _quiet(hook)
        for number in heeded:
            signal.signal(number, stop.handle)
        yield stop
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)
        _innermost, sys.unraisablehook = outer, hook


def _quiet(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Makes a hook that reports dropped exceptions, but for KeyboardInterrupt: :func:`raise_if_dropped` repeats it."""
    return lambda dropped: None if dropped.exc_type is KeyboardInterrupt else hook(dropped)
