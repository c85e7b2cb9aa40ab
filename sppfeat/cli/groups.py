"""Groups of commands: modules are imported when a command needs them, and errors become exit codes in one place."""

import importlib
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from sppfeat.cli.output import say
from sppfeat.cli.signals import stop_on_signals
from sppfeat.errors import ConfigError, SppfeatError

__all__ = [
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "EXIT_SOME_FAILED",
    "EXIT_USAGE",
    "CommandLine",
    "LazyGroup",
    "leave",
]

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3  # finished, but some images failed
EXIT_INTERRUPTED = 130  # the same command again continues


def leave(code: int) -> NoReturn:
    """Ends the command that runs, with an exit code."""
    click.get_current_context().exit(code)


class LazyGroup(click.Group):
    """A group that finds its commands in the modules of this package.

    Args:
        modules: in the order of --help, the module of each command, in which the command has its own name.
        **settings: as for ``click.Group``.
    """

    def __init__(self, *, modules: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names of all commands."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of a name, or None."""
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"sppfeat.cli.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


class CommandLine(LazyGroup):
    """The group of all commands, which turns errors and interruptions into exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; print what ends it, and exit with its code."""
        try:
            with stop_on_signals():  # whatever a command is about, unless it stops in a way of its own
                return super().invoke(ctx)
        except SppfeatError as error:
            say(f"Error: {error}")
            ctx.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR)
        except KeyboardInterrupt:
            say("Interrupted.")
            ctx.exit(EXIT_INTERRUPTED)
