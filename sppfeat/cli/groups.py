"""The group of all commands, exit codes, and the handling of errors and signals."""

import contextlib
import importlib
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import click

from sppfeat.cli.command import Group
from sppfeat.cli.output import say
from sppfeat.errors import ConfigError, LabelWarning, SppfeatError

__all__ = [
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "EXIT_SOME_FAILED",
    "EXIT_USAGE",
    "CommandLine",
    "Stop",
    "leave",
    "raise_if_dropped",
    "stop_on_signals",
]

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3  # finished, but some images failed
EXIT_INTERRUPTED = 130  # the same command again continues

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave(code: int) -> NoReturn:
    """Ends the running command with an exit code."""
    click.get_current_context().exit(code)


class CommandLine(Group):
    """The group of all commands: imports a command when it is needed, and turns errors and signals into exit codes.

    Each command of its sections is a function in a module of this package, both with the command's name. A command that
    finishes its current batch before it stops takes the :class:`Stop` by ``click.pass_obj``.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command with a name; None if no command has it."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(importlib.import_module(f"sppfeat.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; prints an error or interruption and exits with its code."""
        try:
            with stop_on_signals() as ctx.obj, _label_notes():
                return super().invoke(ctx)
        except SppfeatError as error:
            say(f"Error: {error}")
            ctx.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR)
        except KeyboardInterrupt:
            say("Interrupted.")
            ctx.exit(EXIT_INTERRUPTED)


@contextlib.contextmanager
def _label_notes() -> Iterator[None]:
    """Prints label warnings as notes, each once."""
    before, seen = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, LabelWarning):
            before(message, category, *place)
        elif (text := str(message)) not in seen:
            seen.add(text)
            say(f"note: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", LabelWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


class Stop:
    """The state of a request to stop, made by a signal.

    Before the first batch there is nothing to finish, so a signal stops the run at once.
    """

    def __init__(self) -> None:
        self._is_wanted = False
        self._has_batches = False

    def begin_batches(self) -> None:
        """Lets the next signal wait for the end of the current batch."""
        self._has_batches = True

    def is_wanted(self) -> bool:
        """True if a signal has asked to stop after this batch."""
        return self._is_wanted

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Records the request to stop, or raises KeyboardInterrupt if the run must stop at once."""
        if self._is_wanted or not self._has_batches:
            self._is_wanted = True
            raise KeyboardInterrupt
        self._is_wanted = True
        say("Finishing the current batch (Ctrl-C again to stop at once).")

    def raise_if_dropped(self) -> None:
        """Raises KeyboardInterrupt again if a signal raised it and the exception was dropped."""
        if self._is_wanted and not self._has_batches:
            raise KeyboardInterrupt


_current: Stop | None = None  # of the running command


def raise_if_dropped() -> None:
    """Raises the KeyboardInterrupt of a signal again if the exception was dropped.

    Python drops exceptions while it deletes an object, h5py while it converts texts.
    """
    if _current is not None and threading.current_thread() is threading.main_thread():
        _current.raise_if_dropped()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handles signals: the first asks to stop after the current batch, the second raises KeyboardInterrupt.

    Ignored signals stay ignored, such as SIGHUP under ``nohup`` or SIGINT in the background of a script. Outside the
    main thread, which alone can handle signals, nothing happens.
    """
    global _current
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heeded = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    hook = sys.unraisablehook
    try:
        _current = stop
        # raise_if_dropped repeats a dropped KeyboardInterrupt, so Python need not report it.
        sys.unraisablehook = lambda dropped: None if dropped.exc_type is KeyboardInterrupt else hook(dropped)
        for number in heeded:
            signal.signal(number, stop.handle)
        yield stop
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)
        _current, sys.unraisablehook = None, hook
